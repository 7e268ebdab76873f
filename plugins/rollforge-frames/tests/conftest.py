"""A network of random weights that is small enough for tests of seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from rollforge_frames import FrameTransformer
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def network() -> FrameTransformer:
    """Two layers on latents of 4x4, every parameter random and large enough to matter."""
    torch.manual_seed(0)
    made = FrameTransformer(size=4, dim=16, layers=2, heads=2, window=3, horizon=6)
    for value in made.parameters():
        nn.init.normal_(value, std=0.3)
    return made.eval()
