"""What stands still in a video of a fixed camera and what moves: regions, their flow, and matched points."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rollforge.metrics.frames import Image

NAN = float("nan")
MOST_POINTS, MOST_TRIALS = 200, 200  # of the static region, that a similarity is fitted to; of RANSAC
REACH = 1.0  # pixels from the similarity, within which a point follows it
LEAST_SIDE = 256  # pixels; smaller pictures are enlarged before points are looked for
Field = NDArray[np.float32]
Mask = NDArray[np.bool_]


class RegionFlow(NamedTuple):
    """Mean flow in pixels: of the static region, of the dynamic region, and of that without the camera's motion."""

    static: float
    dynamic: float
    compensated: float


def otsu(values: NDArray[np.floating]) -> float:
    """Otsu's threshold over 256 equal bins: the largest variance between what is below it and what is above."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts), counts.sum() - np.cumsum(counts)
    total = np.cumsum(counts * centres)
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = below * above * (total / below - (total[-1] - total) / above) ** 2
    return float(edges[1 + int(np.nanargmax(apart))]) if np.ptp(values) else float(edges[-1])


def static_region(fields: Field) -> Mask:
    """Where the mean flow of ``[N, h, w, 2]`` is at most Otsu's threshold, ``[h, w]``."""
    moved = np.linalg.norm(fields, axis=-1).mean(axis=0)
    return np.asarray(moved <= otsu(moved))


class Regions:
    """The static and the dynamic region of a video.

    Args:
        static: ``[h, w]``, true where the video is static.
        stride: pixels between two places.
    """

    def __init__(self, static: Mask, stride: int = 1) -> None:
        rows, columns = np.indices(static.shape, dtype=np.float32) * stride
        places = np.stack([columns.ravel(), rows.ravel()], axis=1)
        self.still, self.moving = np.flatnonzero(static), np.flatnonzero(~static)
        self.sampled = self.still[:: max(1, len(self.still) // MOST_POINTS)]
        self.start, self.from_moving = places[self.sampled], places[self.moving]

    def flow(self, field: Field) -> RegionFlow:
        """Mean flow of ``[h, w, 2]``. NaN where a region is empty, or no similarity can be fitted to the static one.

        The camera's motion is the similarity (turn, scale, shift) that RANSAC fits to the flow of the static region.
        """
        flat = field.reshape(-1, 2)
        moving, compensated = flat[self.moving], NAN
        fitted: NDArray[np.float64] | None = None
        if len(self.sampled) > 2:
            end = self.start + flat[self.sampled]
            fitted, _ = cv2.estimateAffinePartial2D(  # type: ignore[assignment]
                self.start, end, ransacReprojThreshold=REACH, maxIters=MOST_TRIALS
            )
        if fitted is not None:
            turn, shift = fitted[:, :2].astype(np.float32), fitted[:, 2].astype(np.float32)
            compensated = _mean(moving - (self.from_moving @ turn.T + shift - self.from_moving))
        return RegionFlow(_mean(flat[self.still]), _mean(moving), compensated)


def displacement(first: Image, late: Image, static: Mask) -> tuple[float, int]:
    """Median displacement of ORB keypoints of the static region, in per cent of the diagonal, and how many matched.

    Args:
        first, late: luma, uint8 ``[H, W]``.
        static: of the first, at any resolution.
    """
    scale = -(-LEAST_SIDE // min(first.shape))
    size = first.shape[1] * max(1, scale), first.shape[0] * max(1, scale)
    one, other = (cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC) for picture in (first, late))
    mask = cv2.resize(static.astype(np.uint8) * 255, size, interpolation=cv2.INTER_NEAREST)
    orb = cv2.ORB.create()
    points, features = orb.detectAndCompute(one, mask)
    others, other_features = orb.detectAndCompute(other, None)
    if not points or not others:
        return NAN, 0
    pairs = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(features, other_features)
    moved = [np.subtract(points[pair.queryIdx].pt, others[pair.trainIdx].pt) for pair in pairs]
    if not moved:
        return NAN, 0
    return float(100 * np.median(np.linalg.norm(moved, axis=1)) / np.hypot(*size)), len(moved)


def _mean(vectors: Field) -> float:
    """Mean length of ``[N, 2]``, NaN of none."""
    return float(np.sqrt(vectors[:, 0] ** 2 + vectors[:, 1] ** 2).mean()) if len(vectors) else NAN
