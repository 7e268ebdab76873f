"""The tutorials as notebooks: the code of the page, and nothing that has to be edited before it runs."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbclient import NotebookClient
from packages import PACKAGES
from page_blocks import blocks, shell_environment
from page_pictures import SHOWN

ROOT = Path(__file__).parents[2]
SKIP = re.compile(r'<!--- skip: next "[^"]+" -->\s*\Z')
PAGES = sorted((ROOT / "docs" / "tutorials").glob("[0-9]*.md"))


@pytest.fixture(scope="module")
def notebooks() -> ModuleType:
    """The hook of the site's build."""
    found = importlib.util.spec_from_file_location("notebooks", ROOT / "docs" / "notebooks.py")
    assert found
    assert found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_a_notebook_with_the_same_code(page: Path, notebooks: ModuleType) -> None:
    text = page.read_text()
    made = notebooks.notebook(text)
    nbformat.validate(made)
    cells = [cell.source for cell in made.cells if cell.cell_type == "code"]
    expected = [block for start, _, block in blocks(text) if not SKIP.search(text[:start])]
    assert len(cells) == len(expected)
    for cell, block in zip(cells, expected, strict=True):
        if block.title is not None:
            assert cell == f"%%writefile {block.title}\n{block.code.rstrip()}"
        elif block.language == "bash":
            assert cell == f"%%bash\n{block.code.rstrip()}"
        else:
            assert ast.dump(ast.parse(cell)) == ast.dump(ast.parse(block.code))
    assert not [cell for cell in made.cells if cell.cell_type == "markdown" and "!!!" in cell.source]


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=() if page.stem.startswith("02") else pytest.mark.matrix) for page in PAGES],
    ids=lambda page: page.stem,
)
def test_a_notebook_runs_in_jupyter_without_edits(
    page: Path, notebooks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("configs", "tests"):  # pages are read in a checkout
        (tmp_path / name).symlink_to(ROOT / name)
    for name, value in (shell_environment(None) | {"OMP_NUM_THREADS": "1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ["PYTHONPATH"], *map(str, PACKAGES.values())]))
    made = notebooks.notebook(page.read_text())
    client = NotebookClient(made, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    run = client.execute()  # raises at a cell that fails
    cells = [cell for cell in run.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    shown = {name for found in SHOWN.findall(page.read_text()) for name in found if name}
    assert [name for name in shown if not (tmp_path / name).is_file()] == []
