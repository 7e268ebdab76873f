"""Lets every test import what lies in ``helpers``, and start processes that import nothing again."""

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "helpers"))

from forks import Forks  # now that it can be found

gc.set_threshold(10_000, 10, 100)  # a full collection looks at all of torch and Lightning, and takes half a second


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """A fork server."""
    forks = Forks()
    yield forks
    forks.close()
