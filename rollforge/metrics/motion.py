"""Motion by optical flow, and VBench's rule of when a clip is dynamic."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rollforge.metrics.flow import DIS, Flow
from rollforge.metrics.frames import Frame, FrameMetric
from rollforge.ranges import Positive

NAN = float("nan")
SAMPLED = 8  # pairs a second, as in VBench
GRID = 120  # flow is read at about so many places along the shorter side


class Motion(FrameMetric):
    """How fast the content moves: optical flow, eight times a second.

    Flow is read on a grid of every ``min(H, W) // 120``-th pixel.

    Curves are NaN but at each ``round(fps / 8)``-th frame.

    Curves:
        flow_top: mean over the fastest 5 % of pixels, in pixels per frame.
        flow_median: median over pixels, in pixels per frame.

    Whole video:
        dynamic_degree: "dynamic degree (DIS proxy)", or that of another flow: share of clips that are dynamic by
            VBench's rule. Of ``n`` frames at 8 per second, at least ``round(4 n / 16)`` neighbours are further apart
            (fastest 5 %) than ``6 min(H, W) / 256`` pixels. VBench uses RAFT, and one clip for each short video. An
            incomplete clip counts only if it is the only one.

    Args:
        clip_seconds: length of a clip.
        flow: what measures the motion between two frames. Default: ``DIS``, of luma.
    """

    unsaved = ("flow",)

    def __init__(self, clip_seconds: Positive = 2.0, flow: Flow | None = None) -> None:
        self.clip_seconds = clip_seconds
        self.flow = flow or DIS()

    def begin(self) -> None:
        self.interval = max(1, round(self.fps / SAMPLED))
        self.sample = torch.zeros(0, 0, dtype=torch.uint8)  # what the flow reads of the frame last measured
        self.sampled: int | None = None  # and its index
        self.in_clip = self.far = self.clips = self.dynamic = 0

    def look(self, frame: Frame) -> dict[str, float]:
        if frame.index % self.interval:
            return {"flow_top": NAN, "flow_median": NAN}
        top, median, shown = NAN, NAN, self.flow.picture(frame)
        if self.sampled == frame.index - self.interval:
            top, median = speeds(self.flow.shared(self.sample, frame, self.sampled))
        else:
            self.in_clip = self.far = 0
        self._count(top, min(shown.shape[:2]))
        self.sample, self.sampled = shown.clone(), frame.index
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


def speeds(field: Tensor) -> tuple[float, float]:
    """Pixels moved, by a flow ``[H, W, 2]``: mean of the fastest 5 %, and the median."""
    stride = max(1, min(field.shape[:2]) // GRID)
    moved = np.sqrt(np.square(field[::stride, ::stride].float().numpy()).sum(axis=2)).ravel()
    few = max(1, int(0.05 * len(moved)))
    ordered = np.partition(moved, [len(moved) // 2, len(moved) - few])
    return float(ordered[-few:].mean()), float(ordered[len(moved) // 2])
