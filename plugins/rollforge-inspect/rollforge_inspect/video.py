"""What a thinker may look at: frames of the video, or of a window of it, one a second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from rollforge.video.reader import probe, read_at

SKIMMED = 768
"""Frames of the complete video at most, as in LongVT."""
CROPPED = 128
"""Frames of a window at most."""
EDGE = 256
"""Pixels of the longer edge of what is looked at; larger frames are scaled down."""
AT_ONCE = 1 << 26
"""Bytes of frames that are read in full size at once."""

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Look:
    """Frames that were looked at.

    Args:
        start: of the window, in seconds.
        end: of the window, in seconds.
        times: of the frames, in seconds.
        frames: RGB, uint8 ``[N, H, W, 3]``.
    """

    start: float
    end: float
    times: tuple[float, ...]
    frames: Frames


class Video:
    """A video file.

    Args:
        path: the file. Raises ``UserError`` where it cannot be read, or has no frames.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        info = probe(self.path)
        self.seconds = info.frames / info.fps
        self.last = (info.frames - 1) / info.fps
        self.together = max(1, AT_ONCE // (3 * info.width * info.height))

    def skim(self) -> Look:
        """One frame a second of the complete video; fewer where that were more than ``SKIMMED``."""
        return self.look(0.0, self.seconds, SKIMMED)

    def look(self, start: float, end: float, most: int = CROPPED) -> Look:
        """One frame a second from ``start`` on, the first ones always; fewer where that were more than ``most``."""
        count = max(1, min(most, ceil(end - start - 1e-9)))
        step = max(1.0, (end - start) / count)
        times = tuple(min(start + n * step, self.last) for n in range(count))
        return Look(start, end, times, np.stack(list(self._frames(times))))

    def _frames(self, times: tuple[float, ...]) -> Iterator[Frames]:
        for first in range(0, len(times), self.together):
            for frame in read_at(self.path, times[first : first + self.together]):
                yield _small(frame)


def _small(frame: Frames) -> Frames:
    """A frame whose longer edge has at most ``EDGE`` pixels."""
    rows, columns = frame.shape[:2]
    scale = EDGE / max(rows, columns)
    if scale >= 1:
        return frame
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)
