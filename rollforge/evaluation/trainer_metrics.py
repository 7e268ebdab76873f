"""Mean values of curves of rollouts without a run folder, for a ``Trainer.test`` called from Python."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rollforge.data.requests import Request
from rollforge.metrics.base import Metric
from rollforge.metrics.suite import DriftSuite
from rollforge.pipeline import Pipeline
from rollforge.pipeline.video_rollout import VideoBlock
from rollforge.report.metric_runner import MetricRunner, runner_for


class MeanCurves:
    """The mean of every curve over the frames and videos of a rollout.

    Args:
        pipeline: what makes the videos.
        metrics: what to measure. Default: ``DriftSuite``.
        requests: the videos that are rolled together.
    """

    def __init__(self, pipeline: Pipeline, metrics: Sequence[Metric], requests: Sequence[Request]) -> None:
        metrics = metrics or [DriftSuite()]
        self.runners: list[MetricRunner] = [runner_for(pipeline, metrics, each.prompt) for each in requests]
        self.curves: dict[str, list[Tensor]] = {}
        self.frames = self.latents = 0

    def add(self, block: VideoBlock) -> None:
        """Measures a finished block."""
        for runner, video, latents in zip(self.runners, block.measured, block.latents, strict=True):
            found = runner.update(video, self.frames) | runner.update_latents(latents, self.latents)
            for name, curve in found.items():
                self.curves.setdefault(name, []).append(curve)
        self.frames += block.frames.shape[1]
        self.latents += block.latents.shape[1]

    def means(self) -> dict[str, float]:
        """By ``test/<curve>``."""
        return {f"test/{name}": torch.cat(parts).nanmean().item() for name, parts in self.curves.items()}
