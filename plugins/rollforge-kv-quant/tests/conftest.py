"""One thread, and the package and the helpers of rollforge's own tests where Python finds them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

PACKAGE = Path(__file__).parents[1]
sys.path[:0] = [str(PACKAGE), str(PACKAGE.parents[1] / "tests" / "helpers")]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks are faster on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
