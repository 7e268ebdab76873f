"""The packages in ``plugins/``, as tests see them: importable, and installed where a test asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rollforge.registry import registry

PLUGINS = Path(__file__).parents[2] / "plugins"
PACKAGES = {file.parent.name: file.parent for file in sorted(PLUGINS.glob("*/pyproject.toml"))}


def importable() -> None:
    """Lets every package be imported, as an editable installation does."""
    sys.path.extend(str(folder) for folder in PACKAGES.values() if str(folder) not in sys.path)


@contextmanager
def installed(names: Iterable[str], site: Path) -> Iterator[None]:
    """While it is entered, rollforge finds the entry points of these packages, and of no others.

    Args:
        names: of folders in ``plugins/``.
        site: an empty folder for what pip would write.
    """
    with pytest.MonkeyPatch.context() as patch:
        write(names, site)
        patch.syspath_prepend(str(site))
        patch.delenv("ROLLFORGE_PLUGINS", raising=False)
        registry.cache_clear()
        try:
            yield
        finally:
            registry.cache_clear()


def write(names: Iterable[str], site: Path) -> None:
    """What pip would write of these packages, so that their entry points are found where ``site`` is searched."""
    for name in names:
        project = tomllib.loads((PACKAGES[name] / "pyproject.toml").read_text())["project"]
        info = site / f"{name.replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir(parents=True)
        about = f"Version: {project['version']}\nSummary: {project['description']}\n"
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\n{about}")
        groups = project.get("entry-points", {}).items()
        lines = [
            line for group, entries in groups for line in (f"[{group}]", *(f"{a} = {b}" for a, b in entries.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join([*lines, ""]))


def main(command: list[str]) -> int:
    """Runs a command that finds every package: python packages.py COMMAND ..."""
    with tempfile.TemporaryDirectory() as site:
        write(PACKAGES, Path(site))
        found = os.pathsep.join([site, *map(str, PACKAGES.values()), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(command, env={**os.environ, "PYTHONPATH": found}, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
