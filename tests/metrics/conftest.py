"""Lets the tests of metrics import ``known_videos``, and keeps them to one core."""

import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
from small import one_thread  # noqa: F401 - a fixture is used by being here

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def opencv_too() -> Iterator[None]:
    """OpenCV has threads of its own."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)
