"""Exposure and colour: LAB statistics, clipped pixels, saturation, and the distance from the first clip's colours."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from rollforge.metrics.frames import Frame, FrameMetric
from rollforge.ranges import Positive

BINS = 32
DARK, BRIGHT = 4, 251  # grey levels, 0 to 255
SCALE = np.array([100 / 255, 1.0, 1.0])  # units of L, a and b in one step of eight-bit LAB


class Exposure(FrameMetric):
    """Mean and spread of CIE LAB (D65, L 0 to 100), clipped pixels, saturation.

    LAB comes from OpenCV's eight-bit conversion: means are within 0.15 of the exact ones on textured pictures, within
    1 on a picture of one colour; spreads within 0.3.

    Curves:
        lightness, green_red, blue_yellow: means of L, a and b.
        lightness_spread, green_red_spread, blue_yellow_spread: their standard deviations over the frame.
        dark_share, bright_share: share of pixels whose luma is at most 4, and at least 251. Exact, given the luma.
        saturation: mean of HSV saturation, 0 to 1, within 0.003.
    """

    def begin(self) -> None:
        return

    def look(self, frame: Frame) -> dict[str, float]:
        mean, spread = (np.asarray(part).ravel() * SCALE for part in cv2.meanStdDev(frame.lab))
        levels = _counts(frame.luma, 0)
        hsv = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2HSV)
        return {
            "lightness": float(mean[0]),
            "lightness_spread": float(spread[0]),
            "green_red": float(mean[1] - 128),
            "green_red_spread": float(spread[1]),
            "blue_yellow": float(mean[2] - 128),
            "blue_yellow_spread": float(spread[2]),
            "dark_share": float(levels[: DARK + 1].sum() / frame.luma.size),
            "bright_share": float(levels[BRIGHT:].sum() / frame.luma.size),
            "saturation": cv2.mean(hsv)[1] / 255,
        }


class ColourHistogram(FrameMetric):
    """How far the colours of a frame are from those of the first clip: 32 bins for each of L, a and b.

    While the first clip lasts, a frame is compared with the clip so far, itself included. Given eight-bit LAB, both
    agree with numpy to 1e-5.

    Curves:
        histogram_distance: Hellinger distance, 0 (alike) to 1 (no bin in common), mean over the three channels.
        histogram_shift: earth mover's distance, in units of LAB, mean over the channels. It goes on growing when the
            histograms no longer overlap.

    Args:
        clip_seconds: length of the first clip.
    """

    def __init__(self, clip_seconds: Positive = 2.0) -> None:
        self.clip_seconds = clip_seconds

    def begin(self) -> None:
        self.clip = torch.zeros(3, BINS, dtype=torch.float64)  # sum over frames of the share of pixels in each bin
        self.frames = 0

    def look(self, frame: Frame) -> dict[str, float]:
        shares = np.stack([_counts(frame.lab, c).reshape(BINS, -1).sum(axis=1) for c in range(3)]) / frame.luma.size
        if frame.index < round(self.clip_seconds * self.fps) or not self.frames:
            self.clip, self.frames = self.clip + torch.from_numpy(shares), self.frames + 1
        clip = self.clip.numpy() / self.frames
        overlap = np.sqrt(shares * clip).sum(axis=1)
        moved = abs(np.cumsum(shares - clip, axis=1)).sum(axis=1) * SCALE * (256 / BINS)
        return {
            "histogram_distance": float(np.sqrt(np.clip(1 - overlap, 0, None)).mean()),
            "histogram_shift": float(moved.mean()),
        }


def _counts(image: NDArray[np.uint8], channel: int) -> NDArray[np.float64]:
    """Pixels of each of the 256 values."""
    return np.asarray(cv2.calcHist([image], [channel], None, [256], [0, 256]), np.float64).ravel()
