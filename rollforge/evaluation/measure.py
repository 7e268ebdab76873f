"""Measures one clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rollforge.metrics.base import Metric
from rollforge.metrics.suite import DriftSuite
from rollforge.pipeline import Clip
from rollforge.report.metric_runner import MetricRunner

TOGETHER = 12  # frames that are measured at once


@dataclass(frozen=True)
class Measured:
    """Metrics of a clip.

    Args:
        curves: by name, one value for each pixel frame, or for each latent frame.
        values: of the whole clip, by name.
        failed: metrics that raised, with the error.
    """

    curves: dict[str, Tensor]
    values: dict[str, float]
    failed: dict[str, str]

    def means(self) -> dict[str, float]:
        """The mean of each curve, frames without a value left out."""
        return {name: curve.double().nanmean().item() for name, curve in self.curves.items()}


def measure(clip: Clip, metrics: Sequence[Metric] = ()) -> Measured:
    """Measures a clip from its frames and latents as they are, without an encoder in between.

    Frames that went through a stage ``finish`` are measured as they were before it, if the clip has them.

    Args:
        clip: what to measure.
        metrics: not changed. Default: ``DriftSuite``.

    Raises:
        UserError: for a clip that a metric cannot measure at all.
    """
    runner = MetricRunner(metrics or [DriftSuite()])
    runner.start(clip.prompt, clip.fps)
    parts: dict[str, list[Tensor]] = {}
    frames = clip.frames if clip.decoded is None else clip.decoded
    for start in range(0, len(frames), TOGETHER):
        for name, curve in runner.update(frames[start : start + TOGETHER], start).items():
            parts.setdefault(name, []).append(curve)
    curves = {name: torch.cat(curve) for name, curve in parts.items()}
    curves |= runner.update_latents(clip.latents, 0)
    return Measured(curves, runner.finish(), dict(runner.out))
