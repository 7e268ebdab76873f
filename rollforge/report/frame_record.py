"""What a video is told from others by: a hash of its frames before encoding, and a thumbnail of every second."""

from __future__ import annotations

from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollforge.metrics.thumbnails import SUFFIX, Thumbnails
from rollforge.snapshots.commit import commit
from rollforge.state import Stateful


class FrameRecord(Stateful):
    """Sees the frames of one video in order. A run that was cut off goes on with its state.

    The hash is MD5, chained: ``d[t] = md5(d[t-1] + bytes of frame t)``, ``d[-1]`` being empty, each frame RGB, row by
    row. It does not depend on how frames are split into blocks. (The plain MD5 of all bytes cannot be saved half-way.)

    Args:
        fps: frames per second.
    """

    def __init__(self, fps: float) -> None:
        self.digest = ""  # hexadecimal
        self.thumbnails = Thumbnails(fps)

    def add(self, frames: NDArray[np.uint8]) -> None:
        """The next frames, RGB uint8 ``[T, H, W, 3]``."""
        for frame in frames:
            chained = md5(bytes.fromhex(self.digest), usedforsecurity=False)
            chained.update(frame.tobytes())
            self.digest = chained.hexdigest()
        self.thumbnails.add(frames)

    def leave(self, video: Path, measured: bool) -> dict[str, Any]:
        """For the manifest; of a video that is measured, the thumbnails lie next to it."""
        if measured:
            self.thumbnails.write(video.with_suffix(SUFFIX))
        return {"md5": self.digest, "commit": commit()}
