"""Lets the tests of evaluation import ``plain_videos``, and keeps them to one core."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

from plain_videos import write_video
from small import one_thread  # noqa: F401 - a fixture is used by being here


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
