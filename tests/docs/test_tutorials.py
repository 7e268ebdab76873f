"""Every tutorial runs from top to bottom in a clean folder, and shows what its code makes."""

from __future__ import annotations

from pathlib import Path

import pytest
from forks import Forks
from packages import importable
from page import Page

importable()  # the packages of plugins/, which some pages use
ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "tutorials").glob("[0-9]*.md"))


@pytest.fixture(scope="module")
def programs(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``rollforge`` that need not import everything again."""
    folder = tmp_path_factory.mktemp("programs")
    command = folder / "rollforge"
    command.write_text(f'#!/bin/sh\nexec "{forks.folder}/python" -m rollforge "$@"\n')
    command.chmod(0o755)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_shows_what_its_code_makes(page: Path, tmp_path: Path, programs: Path) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")  # nothing else of the repository
    Page(page).run(tmp_path, programs)
