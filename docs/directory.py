"""Writes ``docs/directory.md``, every installed plugin with its components: python docs/directory.py

It lists the installed entry points of parts and of commands; ``make directory`` lets those of ``plugins/`` be found.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from rollforge.registry import BUILT_IN, plugin_commands, registry
from rollforge.registry.registry import GROUPS

DOCS = Path(__file__).parent
TEMPLATE = DOCS / "directory.template.txt"


def page() -> str:
    """The text of the page, for what is installed."""
    found = registry()
    found.load()
    rows = []
    points = [point for group in GROUPS for point in metadata.entry_points(group=group)]
    packages = {point.dist.name: point.dist for point in points if point.dist}
    commands = plugin_commands(())
    for name, package in sorted(packages.items()):
        parts = [part for part in found.parts.values() if part.origin != BUILT_IN and part.origin.split()[0] == name]
        kinds = sorted({part.kind for part in parts})
        named = "; ".join(f"{kind}: {names(part.name for part in parts if part.kind == kind)}" for kind in kinds)
        own = [f"`rollforge {name}`" for name, each in commands.items() if each.origin.split()[0] == package.name]
        named = "; ".join([*([named] if named else []), *([f"command: {', '.join(own)}"] if own else [])])
        about = package.metadata["Summary"] or ""
        rows.append(f"| `{name}` | {about} | {named} |\n")
    return TEMPLATE.read_text().replace("{rows}", "".join(rows))


def names(found: Iterable[str]) -> str:
    """Names as code, in order."""
    return ", ".join(f"`{name}`" for name in sorted(found))


if __name__ == "__main__":
    (DOCS / "directory.md").write_text(page())
