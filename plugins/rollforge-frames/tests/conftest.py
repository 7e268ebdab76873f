"""One thread, and a network of random weights that is small enough for tests of seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

PACKAGE = Path(__file__).parents[1]
sys.path[:0] = [str(PACKAGE), str(PACKAGE / "tests")]

from rollforge_frames import FrameTransformer  # noqa: E402 # now that it can be found


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks are faster on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def network() -> FrameTransformer:
    """Two layers on latents of 4x4, every parameter random and large enough to matter."""
    torch.manual_seed(0)
    made = FrameTransformer(size=4, dim=16, layers=2, heads=2, window=3, horizon=6)
    for value in made.parameters():
        nn.init.normal_(value, std=0.3)
    return made.eval()
