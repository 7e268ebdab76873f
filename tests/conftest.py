"""Lets every test import what lies in ``helpers``, and start processes that import nothing again."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "helpers"))

from forks import Forks  # now that it can be found
from page_summary import pytest_terminal_summary  # noqa: F401 # a hook


def pytest_collection_finish() -> None:
    """A full collection of garbage need not look at all of torch and Lightning, which takes a third of a second."""
    import hypothesis  # noqa: F401 # looks for what refers to the random generators of libraries, when it is imported

    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """A fork server, the same for all test processes of ``pytest --numprocesses``."""
    own = tmp_path_factory.getbasetemp()
    forks = Forks(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own)
    yield forks
    forks.close()
