"""Levels of rollouts without a run folder, for whoever calls ``Trainer.test`` from Python."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rollforge.data.requests import Request
from rollforge.metrics.base import Blocks, Metric
from rollforge.metrics.suite import DriftSuite
from rollforge.pipeline import Pipeline
from rollforge.report.metric_runner import MetricRunner


def levels(pipeline: Pipeline, metrics: Sequence[Metric], requests: Sequence[Request]) -> dict[str, float]:
    """Rolls requests together and answers the mean of every curve over frames and videos, as ``test/<curve>``."""
    blocks = Blocks.of(pipeline.codec.pixel_frames, pipeline.backbone.spec.block, pipeline.backbone.spec.first_block)
    measures = [MetricRunner(metrics or [DriftSuite()]) for _ in requests]
    for request, own in zip(requests, measures, strict=True):
        own.start(request.prompt, pipeline.fps, blocks)
    curves: dict[str, list[Tensor]] = {}
    take, at, latent = pipeline.roll_requests(requests), 0, 0
    for block in take:
        for own, video, latents in zip(measures, block, take.latents, strict=True):
            for name, curve in (own.update(video, at) | own.update_latents(latents, latent)).items():
                curves.setdefault(name, []).append(curve)
        at, latent = at + block.shape[1], latent + take.latents.shape[1]
    return {f"test/{name}": torch.cat(parts).nanmean().item() for name, parts in curves.items()}
