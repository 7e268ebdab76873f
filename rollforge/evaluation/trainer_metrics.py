"""Levels of rollouts without a run folder, for whoever calls ``Trainer.test`` from Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rollforge.data.requests import Request
from rollforge.metrics.base import Blocks
from rollforge.metrics.suite import DriftSuite
from rollforge.report.metric_runner import MetricRunner

if TYPE_CHECKING:
    from rollforge.lightning.module import RolloutModule


def levels(module: RolloutModule, requests: Sequence[Request]) -> dict[str, float]:
    """Rolls requests together and answers the mean of every curve over frames and videos, as ``test/<curve>``."""
    blocks = Blocks.of(module.codec.pixel_frames, module.backbone.spec.block)
    measures = [MetricRunner(module.metrics or [DriftSuite()]) for _ in requests]
    for request, own in zip(requests, measures, strict=True):
        own.start(request.prompt, module.fps, blocks)
    curves: dict[str, list[Tensor]] = {}
    take, at, latent = module.roll(requests), 0, 0
    for block in take:
        for own, video, latents in zip(measures, block, take.latents, strict=True):
            for name, curve in (own.update(video, at) | own.update_latents(latents, latent)).items():
                curves.setdefault(name, []).append(curve)
        at, latent = at + block.shape[1], latent + take.latents.shape[1]
    return {f"test/{name}": torch.cat(parts).nanmean().item() for name, parts in curves.items()}
