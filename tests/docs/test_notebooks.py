"""The tutorials as notebooks: the code of the page, and nothing that has to be edited before it runs."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from page_blocks import blocks

ROOT = Path(__file__).parents[2]
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
    made = notebooks.notebook(page.read_text())
    nbformat.validate(made)
    cells = [cell.source for cell in made.cells if cell.cell_type == "code"]
    expected = [block for _, _, block in blocks(page.read_text())]
    assert len(cells) == len(expected)
    for cell, block in zip(cells, expected, strict=True):
        if block.title is not None:
            assert cell == f"%%writefile {block.title}\n{block.code.rstrip()}"
        elif block.language == "bash":
            assert cell == f"%%bash\n{block.code.rstrip()}"
        else:
            assert ast.dump(ast.parse(cell)) == ast.dump(ast.parse(block.code))
    assert not [cell for cell in made.cells if cell.cell_type == "markdown" and "!!!" in cell.source]
