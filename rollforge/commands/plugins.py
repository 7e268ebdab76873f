"""``rollforge plugins [list | show NAME]``: every part that a config can name."""

from __future__ import annotations

import inspect
from typing import Any

from rollforge.commands.arguments import Arguments
from rollforge.commands.output import say
from rollforge.isolation import import_matplotlib
from rollforge.ranges import described
from rollforge.registry import KINDS, Part, registry


def run(arguments: list[str]) -> None:
    """Lists the parts, or shows one."""
    parser = Arguments(prog="rollforge plugins", description="List every part that a config can name.")
    actions = parser.add_subparsers(dest="action")
    actions.add_parser("list", help="every part: kind, distribution and what it does (the default)")
    actions.add_parser("show", help="parameters of one part, with types and defaults").add_argument("name")
    chosen = parser.parse_args(arguments)
    import_matplotlib()
    if chosen.action == "show":
        registry().require(chosen.name)
        text = show(registry().find(chosen.name))
    else:
        registry().load()
        text = listing()
    say(text + "\n")


def listing() -> str:
    """All parts, grouped by kind."""
    found = registry()
    parts = [part for kind in KINDS for part in found.of(kind)]
    name, origin = (max(len(getattr(part, field)) for part in parts) for field in ("name", "origin"))
    lines = []
    for kind, purpose in KINDS.items():
        lines.append(f"\n{kind}: {purpose}")
        lines += [f"  {part.name:{name}}  {part.origin:{origin}}  {part.summary}" for part in found.of(kind)]
    return "\n".join(lines).lstrip("\n")


def show(part: Part) -> str:
    """One part: where it comes from, its documentation, its parameters."""
    target = part.load()
    lines = [
        f"{part.name} ({part.kind}, from {part.origin})",
        f"class_path: {target.__module__}.{target.__qualname__}",
        "",
        inspect.getdoc(target) or "",
        "",
        "parameters:",
    ]
    signature = inspect.signature(target)
    parameters = [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    lines += [f"  {p.name}: {_type(p.annotation)} = {_default(p)}" for p in parameters] or ["  none"]
    return "\n".join(lines)


def _type(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return "any"
    return annotation if isinstance(annotation, str) else described(annotation)


def _default(parameter: inspect.Parameter) -> str:
    return "(required)" if parameter.default is inspect.Parameter.empty else repr(parameter.default)
