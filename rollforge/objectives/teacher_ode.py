"""A teacher's ODE solution: Euler steps from noise over a whole clip, with states kept on the way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.errors import UserError
from rollforge.memory import FullMemory, MaskedMemory
from rollforge.objectives.parallel import prediction, prediction_on
from rollforge.pipeline import Pipeline
from rollforge.prediction import to_flow
from rollforge.samplers import Euler
from rollforge.samplers.base import TIMESTEPS


def solver_of(pipeline: Pipeline) -> Euler:
    """The sampler that says steps, shift and guidance. Raises ``UserError`` for one that is not ``Euler``."""
    if not isinstance(pipeline.sampler, Euler):
        raise UserError(
            f"A teacher's solution needs the sampler Euler, not {type(pipeline.sampler).__name__}; set model.sampler "
            "to Euler with the steps, shift and guidance of the teacher."
        )
    return pipeline.sampler


@torch.no_grad()
def solve(
    pipeline: Pipeline, noise: Tensor, captions: Sequence[str], kept: Sequence[float], clean: Tensor | None = None
) -> Tensor:
    """The states at the timesteps ``kept``, then the end of the solution: ``[B, S + 1, F, C, H, W]``.

    The steps are those of the pipeline's ``Euler``, and the kept timesteps between them. Every frame attends to every
    frame; with a ``clean`` clip each block attends to earlier blocks of that, and itself.

    Args:
        pipeline: the teacher, with its sampler, conditioner and negative prompt.
        noise: ``[B, F, C, H, W]``.
        captions: one for each clip.
        kept: timesteps of the states, falling.
        clean: the true clip, ``[B, F, C, H, W]``.
    """
    solver = solver_of(pipeline)
    conditions = [pipeline.condition(captions)]
    if solver.guidance != 1:
        conditions.append(pipeline.condition([pipeline.negative_prompt] * len(captions)))
    steps = sorted({*map(float, solver.timesteps), *map(float, kept)}, reverse=True)
    x, states = noise, []
    for level, lower in zip(steps, [*steps[1:], 0.0], strict=True):
        if level in kept:
            states.append(x)
        if level:
            x = x + (lower - level) / TIMESTEPS * _flow(pipeline, x, level, conditions, solver.guidance, clean)
    return torch.stack([*states, x], dim=1)


def _flow(
    pipeline: Pipeline, x: Tensor, level: float, conditions: Sequence[Condition], guidance: float, clean: Tensor | None
) -> Tensor:
    """The guided flow."""
    flow, *negative = (_unguided(pipeline, x, level, each, clean) for each in conditions)
    return negative[0] + guidance * (flow - negative[0]) if negative else flow


def _unguided(pipeline: Pipeline, x: Tensor, level: float, condition: Condition, clean: Tensor | None) -> Tensor:
    backbone, frames = pipeline.backbone, x.shape[1]
    levels = torch.full(x.shape[:2], level, device=x.device)
    if clean is None:
        full = FullMemory(backbone.spec, range(frames), pipeline.positions)
        made = prediction(backbone, x, levels, condition, full)
    else:
        causal = MaskedMemory.teacher_forcing(backbone.spec, frames, pipeline.positions, pipeline.routing)
        made = prediction_on(backbone, clean, x, levels, condition, causal)
    return to_flow(backbone.spec, made, x, levels)
