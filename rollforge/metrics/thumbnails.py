"""One small picture of every second of a video, by which videos are compared with each other."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from rollforge.errors import UserError
from rollforge.files.reading import open_regular
from rollforge.files.writing import replacing
from rollforge.state import Stateful

EDGE = 16  # pixels, both ways
SUFFIX = ".thumbnails.npy"
Pictures = NDArray[np.uint8]


class Thumbnails(Stateful):
    """The frame at every whole second, averaged over areas to 16 x 16 pixels.

    Args:
        fps: frames per second.
    """

    def __init__(self, fps: float) -> None:
        self.fps, self.at = fps, 0
        self.kept = torch.zeros(0, EDGE, EDGE, 3, dtype=torch.uint8)

    def add(self, frames: Pictures) -> None:
        """The next frames, RGB uint8 ``[T, H, W, 3]``."""
        while (wanted := round(len(self.kept) * self.fps)) < self.at + len(frames):
            small = cv2.resize(frames[wanted - self.at], (EDGE, EDGE), interpolation=cv2.INTER_AREA)
            self.kept = torch.cat([self.kept, torch.from_numpy(np.asarray(small, np.uint8))[None]])
        self.at += len(frames)

    def write(self, path: Path) -> None:
        """Writes uint8 ``[seconds, 16, 16, 3]`` as an npy file."""
        with replacing(path) as partial, open(partial, "wb") as file:
            np.save(file, self.kept.numpy())


def read(path: Path) -> Pictures:
    """What ``Thumbnails.write`` wrote. Raises ``UserError`` for anything else."""
    try:
        with open_regular(path) as file:
            found: Pictures = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and its video, and run again.") from error
    if found.dtype != np.uint8 or found.shape[1:] != (EDGE, EDGE, 3):
        raise UserError(f"{path} holds {found.dtype} {list(found.shape)}, not thumbnails; remove it, and run again.")
    return found
