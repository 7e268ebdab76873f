"""``rollforge plugins new``: a package with one part that works, to be changed into one's own."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from string import Template

from rollforge import API
from rollforge.errors import UserError
from rollforge.files.writing import make_folder, write

TEMPLATES = files("rollforge.commands") / "templates"
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
PREFIX = "rollforge-"


def create(name: str, kind: str, parent: Path) -> Path:
    """Writes the package below ``parent``; returns its folder. Raises ``UserError`` where something is there."""
    plain = name.removeprefix(PREFIX)
    if not NAME.fullmatch(plain) or keyword.iskeyword(plain):
        raise UserError(
            f"A plugin cannot be called {name!r}; use lower-case letters, digits and hyphens, as in soft-sink."
        )
    folder = parent / f"{PREFIX}{plain}"
    if folder.exists():
        raise UserError(f"{folder} is there already; give another name, or remove it.")
    for path, content in rendered(plain, kind):
        make_folder((folder / path).parent)
        write(folder / path, content)
    return folder


def rendered(name: str, kind: str) -> Iterator[tuple[str, str]]:
    """The files of the package, by their paths in it."""
    package = f"rollforge_{name.replace('-', '_')}"
    words = {
        "name": name,
        "distribution": f"{PREFIX}{name}",
        "package": package,
        "Part": part_name(name),
        "kind": kind,
        "api": str(API),
    }
    sources = {
        "pyproject.toml": "common/pyproject.toml.txt",
        "README.md": "common/README.md.txt",
        "config.yaml": f"{kind}.yaml.txt",
        f"{package}/__init__.py": "common/init.py.txt",
        f"{package}/{kind}.py": f"{kind}.py.txt",
        f"tests/test_{package}.py": f"{kind}.test.txt",
    }
    for path, source in sources.items():
        yield path, Template((TEMPLATES / source).read_text()).substitute(words)
    yield f"{package}/py.typed", ""


def part_name(name: str) -> str:
    """The class in a package of that name: ``soft-sink`` has ``SoftSink``."""
    return "".join(word.capitalize() for word in name.removeprefix(PREFIX).split("-"))
