"""Training on history the model made itself (Resampling Forcing, arXiv 2512.15702): teacher-free."""

from __future__ import annotations

import torch
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.objectives.flow import TeacherForcing
from rollforge.pipeline import Pipeline
from rollforge.policies import Window
from rollforge.ranges import Count, CountFromZero, Positive, Share
from rollforge.rollout import Rollout
from rollforge.samplers.base import TIMESTEPS, Finished, Job, Pass, Passes, Sampler, add_noise, shifted


class ResamplingForcing(TeacherForcing):
    """Trains every block on history with the model's own errors in it.

    The history is resampled block by block, without gradient: each block is noised to a level drawn once for the
    video and brought back by one Euler step, given the resampled blocks before it. The target stays clean.

    Args:
        shift: as in flow matching.
        drop_text: as in flow matching.
        curriculum: as in flow matching.
        single_blocks: as in flow matching.
        history_shift: shift of the history's level, drawn from a logit-normal; below 1 means milder errors.
    """

    def __init__(
        self,
        shift: Positive = 1.0,
        drop_text: Share = 0.1,
        curriculum: dict[CountFromZero, Count] | None = None,
        single_blocks: Share = 0.0,
        history_shift: Positive = 0.6,
    ) -> None:
        super().__init__(shift, drop_text, curriculum, single_blocks)
        self.history_shift = history_shift

    def flow_error(self, pipeline: Pipeline, latents: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        history = (
            self.resample(pipeline, latents, condition) if latents.shape[1] > pipeline.backbone.spec.first else latents
        )
        return self.on_history(pipeline, history, latents, noise, condition)

    @torch.no_grad()
    def resample(self, pipeline: Pipeline, latents: Tensor, condition: Condition) -> Tensor:
        """The clip ``[B, F, C, H, W]`` as the model would have made it, block after block."""
        level = shifted(torch.randn(len(latents), 1, device=latents.device).sigmoid() * TIMESTEPS, self.history_shift)
        spec = pipeline.backbone.spec
        rollout = Rollout(
            pipeline.backbone, Window(-(-spec.window // spec.block) - 1), _OneStep(latents, level),
            positions=pipeline.positions,
        )  # fmt: skip
        return torch.cat([block.latents for block in rollout(condition, latents.shape[1])], dim=1)


class _OneStep(Sampler):
    """One Euler step from the true clip, noised to ``level`` ``[B, 1]``, to a clean guess."""

    def __init__(self, latents: Tensor, level: Tensor) -> None:
        self.latents, self.level = latents, level

    def run(self, job: Job) -> Passes:
        for step in job.steps:
            true = self.latents[:, step.frames.start : step.frames.stop]
            level = self.level.expand(true.shape[:2])
            x = add_noise(true, torch.randn_like(true), level)
            flow = yield Pass(step, x, level)
            clean = x - (level / TIMESTEPS)[..., None, None, None] * flow
            yield Finished(step, clean)
            yield from self.commit(step, clean, job.noise)
