"""What the curves are computed from: small pictures in LAB."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rollforge_inspect.video import Look

CELLS = 16
"""Cells of a small picture, both ways."""
FAR = 20.0
"""Distance in LAB from which on a cell counts as entirely different."""

Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class Features:
    """Small pictures of a look.

    Args:
        times: in seconds, ``[N]``.
        cells: LAB, ``[N, CELLS * CELLS, 3]``.
    """

    times: NDArray[np.float64]
    cells: Numbers

    @property
    def means(self) -> Numbers:
        """Mean colour of each, ``[N, 3]``."""
        return np.asarray(self.cells.mean(axis=1))

    def share(self, background: Numbers) -> Numbers:
        """How much of each picture differs from a background ``[cells, 3]``, from 0 to 1; a tint does not count."""
        plain = self.cells - self.cells.mean(axis=1, keepdims=True)
        away = np.linalg.norm(plain - (background - background.mean(axis=0)), axis=2)
        return np.asarray((np.minimum(away, FAR) / FAR).mean(axis=1))


def features(look: Look) -> Features:
    """Small pictures of the frames of a look."""
    small = [cv2.resize(frame, (CELLS, CELLS), interpolation=cv2.INTER_AREA) for frame in look.frames]
    lab = [cv2.cvtColor(each.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for each in small]
    return Features(np.asarray(look.times), np.stack(lab).reshape(len(lab), -1, 3).astype(np.float32))
