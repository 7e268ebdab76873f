"""Sharpness: how much fine detail a frame has."""

from __future__ import annotations

import cv2
import numpy as np

from rollforge.metrics.frames import Frame, FrameMetric


class Sharpness(FrameMetric):
    """Variance of the Laplacian (four neighbours, mirrored at the border) of luma. Exact to 1e-6.

    Noise counts as detail: a noisy video is sharp. Its end over its start is the ``ratio_15`` of the summary.

    Curves:
        detail: the variance, in squared grey levels.
    """

    def begin(self) -> None:
        return

    def look(self, frame: Frame) -> dict[str, float]:
        _, spread = cv2.meanStdDev(cv2.Laplacian(frame.luma, cv2.CV_16S))
        return {"detail": float(np.asarray(spread).item() ** 2)}
