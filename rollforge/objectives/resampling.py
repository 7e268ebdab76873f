"""Training on history that the model generated (Resampling Forcing, arXiv 2512.15702): teacher-free.

=====================  =============================================================================
number                 value in the paper; in third parties' variants
=====================  =============================================================================
history's level        logit-normal(0, 1), one for each video, shifted by 0.6; clamped to [50, 950]
Euler steps            1; 4 with shift 0.25
probability            1; rising from 0 to 0.2 over 4,000 steps
target                 the flow to the true clip, at a level of its own for each block
history routing        top 5 of 20 frames (``model.memory: RoutedMemory``), in the last 1,500 steps
schedule               teacher forcing 10,000; 5 s clips 15,000; 15 s clips 5,000; routing 1,500
=====================  =============================================================================

Sources for this method were second-hand; the code is our reading of them.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.errors import UserError
from rollforge.objectives.flow import TeacherForcing, Weighting
from rollforge.objectives.levels import Levels
from rollforge.objectives.parallel import clean_of
from rollforge.pipeline import Pipeline
from rollforge.policies import Window
from rollforge.prediction import target
from rollforge.ranges import Count, CountFromZero, Positive, Range, Share
from rollforge.rollout import Rollout
from rollforge.samplers.base import (
    TIMESTEPS,
    Finished,
    Job,
    Pass,
    Passes,
    Sampler,
    Timestep,
    add_noise,
    shifted,
)
from rollforge.state import State


class ResamplingForcing(TeacherForcing):
    """Trains every block on history with the model's own errors in it.

    The history is resampled block by block, without gradient: each block is noised to a level drawn once for the
    video and brought back by Euler steps, given the resampled blocks before it. The target stays clean.

    Args:
        shift: as in flow matching.
        drop_text: as in flow matching.
        curriculum: as in flow matching.
        single_blocks: as in flow matching.
        grid: as in flow matching.
        weighting: as in flow matching.
        history_shift: shift of the history's level, drawn from a logit-normal; below 1 means milder errors.
        history_levels: the smallest and the largest timestep of the history's level, to which it is clamped.
        history_steps: Euler steps from that level to 0, evenly spaced.
        history_from: ``rollout``: the model rolls the history before each step; ``last_step``: the history is what the
            model predicted of the same clip in the step before, which costs no passes. It needs ``data.repeat`` of 2 or
            more; the first step on a clip has clean history.
        probability: share of the steps that train on such history; the others train on clean history.
        anneal: steps over which the probability rises from 0.
    """

    def __init__(
        self,
        shift: Positive = 1.0,
        drop_text: Share = 0.1,
        curriculum: dict[CountFromZero, Count] | None = None,
        single_blocks: Share = 0.0,
        grid: Levels | None = None,
        weighting: Weighting = "none",
        history_shift: Positive = 0.6,
        history_levels: tuple[Timestep, Timestep] = (0.0, TIMESTEPS),
        history_steps: Annotated[int, Range(1, 10_000)] = 1,
        history_from: Literal["rollout", "last_step"] = "rollout",
        probability: Share = 1.0,
        anneal: CountFromZero = 0,
    ) -> None:
        super().__init__(shift, drop_text, curriculum, single_blocks, grid, weighting)
        if history_levels[0] > history_levels[1]:
            raise UserError(
                f"ResamplingForcing.history_levels must rise, not {list(history_levels)}; give the smaller one first."
            )
        self.history_shift, self.history_levels, self.history_steps = history_shift, history_levels, history_steps
        self.history_from, self.probability, self.anneal = history_from, probability, anneal
        self.last: tuple[Tensor, Tensor] | None = None  # a clip and what was predicted of it

    def flow_error(self, pipeline: Pipeline, latents: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        if self.history_from == "last_step":
            return self._on_last_prediction(pipeline, latents, noise, condition)
        own = latents.shape[1] > pipeline.backbone.spec.first and self.chosen()
        history = self.resample(pipeline, latents, condition) if own else latents
        return self.on_history(pipeline, history, latents, noise, condition)

    def chosen(self) -> bool:
        """Whether this step trains on the model's own history: drawn by its number, the same in all processes."""
        share = self.probability * min(1.0, self.step / self.anneal) if self.anneal else self.probability
        return torch.rand((), generator=torch.Generator().manual_seed(self.step)).item() < share

    @torch.no_grad()
    def resample(self, pipeline: Pipeline, latents: Tensor, condition: Condition) -> Tensor:
        """The clip ``[B, F, C, H, W]`` as the model would have made it, block after block."""
        drawn = torch.randn(len(latents), 1, device=latents.device).sigmoid() * TIMESTEPS
        level = shifted(drawn, self.history_shift).clamp(*self.history_levels)
        spec = pipeline.backbone.spec
        rollout = Rollout(
            pipeline.backbone, Window(-(-spec.window // spec.block) - 1), _FromClip(latents, level, self.history_steps),
            positions=pipeline.positions, memory=pipeline.memory, combine=pipeline.combine,
            attention=pipeline.attention,
        )  # fmt: skip
        return torch.cat([block.latents for block in rollout(condition, latents.shape[1])], dim=1)

    def _on_last_prediction(self, pipeline: Pipeline, latents: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """As ``on_history``, on what was predicted of this clip in the step before; keeps what is predicted now."""
        last, history = self.last, latents
        if last is not None and torch.equal(last[0], latents) and self.chosen():
            history = last[1]
        levels = self.levels(pipeline, latents)
        noisy = add_noise(latents, noise, levels)
        made = self.predicted(pipeline, history, noisy, levels, condition)
        self.last = latents, clean_of(pipeline.backbone, made.detach().float(), noisy, levels)
        return self.error(made, target(pipeline.backbone.spec, latents, noise, levels), levels)

    def state_dict(self) -> State:
        return {} if self.last is None else {"last": self.last}

    def load_state_dict(self, state: State) -> None:
        self.last = state.get("last")


class _FromClip(Sampler):
    """Euler steps from the true clip, noised to ``level`` ``[B, 1]``, to a clean guess."""

    def __init__(self, latents: Tensor, level: Tensor, steps: int) -> None:
        self.latents, self.level, self.steps = latents, level, steps

    def run(self, job: Job) -> Passes:
        for step in job.steps:
            true = self.latents[:, step.frames.start : step.frames.stop]
            level = self.level.expand(true.shape[:2])
            x = add_noise(true, torch.randn_like(true), level)
            for n in range(self.steps):
                flow = yield Pass(step, x, level * (1 - n / self.steps))
                x = x - (level / (TIMESTEPS * self.steps))[..., None, None, None] * flow
            yield Finished(step, x)
            yield from self.commit(step, x, job.noise)
