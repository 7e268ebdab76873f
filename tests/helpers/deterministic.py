"""An objective without chance: the noise of a clip depends on the clip, not on its batch or its process."""

from __future__ import annotations

import torch
from torch import Tensor

from rollforge.memory import MaskedMemory
from rollforge.objectives.base import Clips, Objective
from rollforge.objectives.flow import squared_error
from rollforge.pipeline import Pipeline
from rollforge.samplers.base import add_noise


class Calm(Objective):
    """Diffusion forcing at one level."""

    def __call__(self, pipeline: Pipeline, clips: Clips) -> dict[str, Tensor]:
        latents = pipeline.encode(clips["video"])
        seeds = [int(video.long().sum()) for video in clips["video"]]
        noise = torch.stack([torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(n)) for n in seeds])
        levels = torch.full(latents.shape[:2], 500.0)
        memory = MaskedMemory.diffusion_forcing(pipeline.backbone.spec, latents.shape[1], pipeline.positions)
        flow = pipeline.backbone(
            add_noise(latents, noise, levels), levels, pipeline.condition(clips["caption"]), memory
        )
        return {"loss": squared_error(flow, noise - latents).mean()}
