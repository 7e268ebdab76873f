"""Whether a fixed camera stays fixed, and what moves goes on moving: the metrics of SNF-Bench, without weights."""

from __future__ import annotations

import numpy as np
import torch

from rollforge.metrics.flow import DIS, Flow
from rollforge.metrics.frames import Frame, FrameMetric
from rollforge.metrics.motion import SAMPLED
from rollforge.metrics.regions import RegionFlow, Regions, displacement, static_region
from rollforge.ranges import Positive

NAN = float("nan")
UNIT = 1000.0  # of a width per second
GRID = 32  # flow is read at about so many places along the shorter side


class FixedCamera(FrameMetric):
    """Metrics of SNF-Bench (arXiv 2608.28694, v1.1) for videos whose camera should stand still.

    Flow is measured eight times a second, on every ``min(H, W) // 32``-th pixel, in thousandths of the width a second.
    A pixel is static where the mean flow of the first window is at most Otsu's threshold, and dynamic elsewhere. Window
    lengths, the fit of the similarity to the static region, and means over all pairs for DLR and DAR are our reading.

    Curves are NaN in the first window and between measured frames, figures of the whole video where it is shorter than
    two windows, or a region is empty.

    Curves:
        background_flow: mean flow of the static region.
        foreground_flow: mean flow of the dynamic region after the camera's similarity (RANSAC) is taken out.

    Whole video:
        snf_fbd, snf_matches: median displacement of ORB keypoints of the static region between the first and the last
            measured frame, in per cent of the diagonal, and how many matched. A later note gives it less weight.
        snf_nbf: mean static flow.
        snf_mcff_early, snf_mcff_late: mean compensated dynamic flow of the first and of the last window.
        snf_fp: late over early; only to be read with the two.
        snf_dlr: static over raw dynamic flow.
        snf_dar: 1 - compensated over raw dynamic flow.

    Args:
        window_seconds: length of the first and of the last window.
        flow: what measures the motion between two frames. Default: ``DIS``, of luma.
    """

    unsaved = ("flow", "regions")

    def __init__(self, window_seconds: Positive = 2.0, flow: Flow | None = None) -> None:
        self.window_seconds, self.flow = window_seconds, flow or DIS()

    @property
    def least_seconds(self) -> float:
        return 2 * self.window_seconds

    def begin(self) -> None:
        self.interval = max(1, round(self.fps / SAMPLED))
        self.window = max(1, round(self.window_seconds * self.fps / self.interval))  # pairs
        self.first = self.last = torch.zeros(0, 0, dtype=torch.uint8)  # luma
        self.sample = torch.zeros(0, 0, dtype=torch.uint8)  # what the flow reads of the frame last measured
        self.sampled: int | None = None  # and its index
        self.fields = torch.zeros(0, 0, 0, 2)  # flow of the first window
        self.static = torch.zeros(0, 0, dtype=torch.bool)
        self.regions: Regions | None = None  # of ``static``
        self.early, self.late = torch.zeros(0, 3), torch.zeros(0, 3)  # of each pair a ``RegionFlow``
        self.total, self.pairs = torch.zeros(3, dtype=torch.float64), 0

    def look(self, frame: Frame) -> dict[str, float]:
        found = RegionFlow(NAN, NAN, NAN)
        if frame.index % self.interval == 0:
            shown = self.flow.picture(frame)
            if self.sampled == frame.index - self.interval:
                field = self.flow.shared(self.sample, frame, self.sampled)
                found = self._pair(field, frame.rgb.shape[1])
            self.last = torch.from_numpy(frame.luma.copy())
            self.first = self.first if self.first.numel() else self.last
            self.sample, self.sampled = shown.clone(), frame.index
        return {"background_flow": found.static, "foreground_flow": found.compensated}

    def finish(self) -> dict[str, float]:
        known = self.pairs >= 2 * self.window - 1
        static, dynamic, compensated = (self.total / self.pairs).tolist() if known else (NAN, NAN, NAN)
        early, late = (each[:, 2].mean().item() if known else NAN for each in (self.early, self.late))
        moved, matches = NAN, 0
        if known:
            moved, matches = displacement(self.first.numpy(), self.last.numpy(), self.static.numpy())
        return {
            "snf_fbd": moved,
            "snf_matches": float(matches),
            "snf_nbf": static,
            "snf_mcff_early": early,
            "snf_mcff_late": late,
            "snf_fp": _over(late, early),
            "snf_dlr": _over(static, dynamic),
            "snf_dar": 1 - _over(compensated, dynamic),
        }

    def _pair(self, field: torch.Tensor, width: int) -> RegionFlow:
        """Takes the flow between two measured frames, in pixels; nothing is known of it in the first window."""
        stride = max(1, min(field.shape[:2]) // GRID)
        self.unit = UNIT * self.fps / (self.interval * width)
        coarse = field[::stride, ::stride].float()
        if self.static.numel():
            return self._take(coarse, stride)
        self.fields = torch.cat([self.fields.reshape(-1, *coarse.shape), coarse[None]])
        if len(self.fields) == self.window:
            self.static = torch.from_numpy(static_region(self.fields.numpy()))
            for each in self.fields:
                self._take(each, stride)
            self.early, self.fields = self.late, self.fields[:0]
        return RegionFlow(NAN, NAN, NAN)

    def _take(self, field: torch.Tensor, stride: int) -> RegionFlow:
        if self.regions is None:
            self.regions = Regions(self.static.numpy(), stride)
        values = self.unit * np.array(self.regions.flow(field.numpy()))
        row = torch.from_numpy(values)
        self.total, self.pairs = self.total + row, self.pairs + 1
        self.late = torch.cat([self.late, row.float()[None]])[-self.window :]
        return RegionFlow(*values.tolist())


def _over(one: float, other: float) -> float:
    return one / other if other > 0 else NAN
