"""Small videos for these tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rollforge.video.writer import VideoWriter


def smooth(count: int = 30, width: int = 96, height: int = 64) -> NDArray[np.uint8]:
    """Soft, moderately coloured waves that move."""
    t, y, x = np.mgrid[0:count, 0:height, 0:width]
    waves = [np.sin(x / 40 + t / 20), np.cos(y / 30 - t / 30), np.sin((x + y) / 50 + t / 9)]
    return np.round(127 + 60 * np.stack(waves, -1)).astype(np.uint8)


def numbered(count: int, side: int = 8) -> NDArray[np.uint8]:
    """Frames that say their own number in their first pixel, up to 65,535."""
    video = np.zeros((count, side, side, 3), np.uint8)
    video[..., 0] = (np.arange(count) % 256)[:, None, None]
    video[..., 1] = (np.arange(count) // 256)[:, None, None]
    return video


def number(image: NDArray[np.uint8]) -> int:
    return int(image[0, 0, 0]) + 256 * int(image[0, 0, 1])


def write(path: Path, video: NDArray[np.uint8], fps: float = 16, scale: int = 1, crf: int = 12) -> Path:
    with VideoWriter(path, (video.shape[2], video.shape[1]), fps, scale, crf) as writer:
        writer.write(video)
    return path
