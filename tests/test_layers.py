"""Nothing imports in a circle, imports for type checkers included. ``lint-imports`` checks the order of the layers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
HANDED_ON = ("rollforge", "rollforge.commands.load")
"""The package hands this on and imports it when it is asked for."""


def modules() -> dict[str, Path]:
    files = sorted((ROOT / "rollforge").rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imported(path: Path, name: str, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a module names in any import, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (each if each in known else str(node.module) for each in members)


def test_no_module_imports_itself_through_others() -> None:
    known = modules()
    graph = {
        name: {
            each for each in imported(path, name, known) if each in known and each != name and (name, each) != HANDED_ON
        }
        for name, path in known.items()
    }
    assert sum(map(len, graph.values())) > 1000  # it does see them
    assert any(name.startswith("rollforge.pipeline") for name in graph["rollforge.lightning.module"])
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_every_folder_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "rollforge").rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []
