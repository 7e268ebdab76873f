"""Lets the tests of evaluation import ``plain_videos``, and keeps them to one core."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

from plain_videos import write_video


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """A folder of lossless videos: name to frames."""

    def make(**videos: NDArray[np.uint8]) -> Path:
        there = tmp_path / "given"
        there.mkdir()
        for name, video in videos.items():
            write_video(there / f"{name}.mp4", video)
        return there

    return make


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
