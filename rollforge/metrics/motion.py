"""Motion by optical flow, and VBench's rule of when a clip is dynamic."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import torch

from rollforge.metrics.frames import Frame, FrameMetric, Image
from rollforge.ranges import Positive

NAN = float("nan")
SAMPLED = 8  # pairs a second, as in VBench
GRID = 120  # flow is read at about so many places along the shorter side


class Motion(FrameMetric):
    """How fast things move: DIS optical flow (preset ultrafast) of luma, eight times a second.

    A texture that moves as a whole by 2 to 5 pixels between two measured frames is measured to 5 %, by 1 pixel to 10 %.
    Flow is read on a grid of every ``min(H, W) // 120``-th pixel.

    Curves, NaN but at each ``round(fps / 8)``-th frame:
        flow_top: mean over the fastest 5 % of pixels, in pixels per frame.
        flow_median: median over pixels, in pixels per frame.

    Whole video:
        dynamic_degree: "dynamic degree (DIS proxy)": share of clips that are dynamic by VBench's rule. Of ``n`` frames
            at 8 per second, at least ``round(4 n / 16)`` neighbours are further apart (fastest 5 %) than
            ``6 min(H, W) / 256`` pixels. VBench uses RAFT, and one clip for each short video. A clip that is not whole
            counts only where it is the only one.

    Args:
        clip_seconds: length of a clip.
    """

    def __init__(self, clip_seconds: Positive = 2.0) -> None:
        self.clip_seconds = clip_seconds

    def begin(self) -> None:
        self.interval = max(1, round(self.fps / SAMPLED))
        self.sample = torch.zeros(0, 0, dtype=torch.uint8)  # luma last measured
        self.sampled: int | None = None  # and its index
        self.in_clip = self.far = self.clips = self.dynamic = 0

    def look(self, frame: Frame) -> dict[str, float]:
        if frame.index % self.interval:
            return {"flow_top": NAN, "flow_median": NAN}
        top = median = NAN
        if self.sampled == frame.index - self.interval:
            top, median = flow(self.sample.numpy(), frame.luma)
        else:
            self.in_clip = self.far = 0
        self._count(top, min(frame.luma.shape))
        self.sample, self.sampled = torch.from_numpy(frame.luma.copy()), frame.index
        return {"flow_top": top / self.interval, "flow_median": median / self.interval}

    def _count(self, top: float, side: int) -> None:
        if self.in_clip:
            self.far += top > 6 * side / 256
        self.in_clip += 1
        if self.in_clip == max(2, round(self.clip_seconds * self.fps / self.interval)):
            self.clips += 1
            self.dynamic += self._dynamic()
            self.in_clip = self.far = 0

    def _dynamic(self) -> bool:
        return self.far >= round(4 * self.in_clip / 16)

    def finish(self) -> dict[str, float]:
        if self.clips:
            return {"dynamic_degree": self.dynamic / self.clips}
        return {"dynamic_degree": float(self._dynamic()) if self.in_clip > 1 else NAN}


def flow(before: Image, after: Image) -> tuple[float, float]:
    """Pixels moved between two pictures uint8 ``[H, W]``: mean of the fastest 5 %, and the median."""
    stride = max(1, min(before.shape) // GRID)
    field = np.asarray(_dis().calc(before, after, None))[::stride, ::stride]  # type: ignore[call-overload] # no guess
    moved = np.sqrt(np.square(field).sum(axis=2)).ravel()
    few = max(1, int(0.05 * len(moved)))
    ordered = np.partition(moved, [len(moved) // 2, len(moved) - few])
    return float(ordered[-few:].mean()), float(ordered[len(moved) // 2])


@cache
def _dis() -> cv2.DISOpticalFlow:
    """Kept here and not in the metric, since it can be neither copied nor saved; it remembers nothing."""
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
