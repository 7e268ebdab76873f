"""Consistency distillation of a causal model: the other first stage of few-step training.

Source: Causal Forcing, after consistency models (arXiv 2303.01469, algorithm 2). A frozen teacher takes one guided
Euler step from ``t`` to the next level ``t'`` of a grid, with the clean clip as history. The student at ``t`` is
trained to predict what its own running average predicts at ``t'``.

===================  ==========================================================================
number               value
===================  ==========================================================================
grid                 48 levels, shift 5; one step of it for the batch
guidance             ``n + 3 (c - n)``, c with the caption and n with the negative prompt
target               x0 of the running average at ``t'``, no gradient
x0                   ``x - sigma flow``; sigma is the nearest of 1,000 grid values (``x0_grid``)
loss                 mean squared error: no weight, no boundary parametrisation
===================  ==========================================================================

The release casts latents and timesteps to bfloat16; here they stay as they are.
"""

from __future__ import annotations

from typing import Annotated, cast

import torch
from torch import Tensor

from rollforge.backbones.base import Backbone, Condition
from rollforge.errors import UserError
from rollforge.memory import MaskedMemory
from rollforge.objectives.base import Clips, Objective
from rollforge.objectives.clips import latents_of
from rollforge.objectives.flow import squared_error
from rollforge.objectives.levels import RELEASED, Levels, grid, nearest
from rollforge.objectives.parallel import clean_of, prediction_on
from rollforge.pipeline import Pipeline
from rollforge.prediction import to_flow
from rollforge.ranges import Finite, Positive, Range
from rollforge.samplers.base import TIMESTEPS, add_noise


class ConsistencyDistillation(Objective):
    """Trains a causal student to agree with its own average one step further along a teacher's solution.

    It needs ``model.ema``: the average is the target.

    Args:
        teacher: a frozen causal network, trained by teacher forcing.
        steps: levels of the grid.
        shift: of the grid; moves its levels towards noise.
        guidance: classifier-free guidance scale of the teacher, counted from the negative prompt; 1 turns it off.
        x0_grid: levels of the grid whose nearest value is taken for sigma where x0 is formed, as in the release. Unset:
            the level itself.
    """

    def __init__(
        self,
        teacher: Backbone,
        steps: Annotated[int, Range(2, 10_000)] = 48,
        shift: Positive = 5.0,
        guidance: Finite = 3.0,
        x0_grid: Levels | None = RELEASED,
    ) -> None:
        self.teacher: Backbone = teacher
        self.steps, self.shift, self.guidance, self.x0_grid = steps, shift, guidance, x0_grid

    def __call__(self, pipeline: Pipeline, clips: Clips) -> dict[str, Tensor]:
        average = self._target_network(pipeline)
        clean = latents_of(self, pipeline, clips)
        clean = clean[:, : pipeline.backbone.spec.whole(clean.shape[1])]
        condition, noise = pipeline.condition(clips["caption"]), torch.randn_like(clean)

        steps = grid(self.steps, self.shift).to(clean.device)
        k = torch.randint(self.steps - 1, (1,), device=clean.device)
        t, lower = (steps[n].expand(clean.shape[:2]) for n in (k, k + 1))
        noisy = add_noise(clean, noise, t)
        with torch.no_grad():
            flow = self.teacher_flow(pipeline, clean, noisy, t, condition)
            closer = noisy - ((t - lower) / TIMESTEPS)[..., None, None, None] * flow
            goal = self.x0(average, pipeline, clean, closer, lower, condition)
        made = self.x0(pipeline.backbone, pipeline, clean, noisy, t, condition)
        error = squared_error(made, goal)
        return {"loss": error.mean(), "loss_first_block": error[:, : pipeline.backbone.spec.first].mean()}

    def teacher_flow(
        self, pipeline: Pipeline, clean: Tensor, noisy: Tensor, levels: Tensor, condition: Condition
    ) -> Tensor:
        """The teacher's guided flow for ``noisy`` given earlier blocks of ``clean``."""
        flow = self._flow(clean, noisy, levels, condition)
        if self.guidance == 1:
            return flow
        negative = self._flow(clean, noisy, levels, pipeline.condition([pipeline.negative_prompt] * len(clean)))
        return negative + self.guidance * (flow - negative)

    def _flow(self, clean: Tensor, noisy: Tensor, levels: Tensor, condition: Condition) -> Tensor:
        memory = MaskedMemory.teacher_forcing(self.teacher.spec, clean.shape[1], self.teacher.positions)
        made = prediction_on(self.teacher, clean, noisy, levels, condition, memory)
        return to_flow(self.teacher.spec, made, noisy, levels)

    def x0(
        self, network: Backbone, pipeline: Pipeline, clean: Tensor, noisy: Tensor, levels: Tensor, condition: Condition
    ) -> Tensor:
        """The clean frames that a student predicts from ``noisy`` given earlier blocks of ``clean``."""
        memory = MaskedMemory.teacher_forcing(network.spec, clean.shape[1], pipeline.positions)
        made = prediction_on(network, clean, noisy, levels, condition, memory)
        known = levels if self.x0_grid is None else nearest(levels, grid(self.x0_grid, self.shift))
        return clean_of(network, made, noisy, known)

    def _target_network(self, pipeline: Pipeline) -> Backbone:
        """The running average. Raises ``UserError`` without one, and for a teacher of another latent size."""
        if self.average is None:
            raise UserError(
                "ConsistencyDistillation needs the running average of the weights as its target; set model.ema, "
                "such as 0.99."
            )
        check_teacher(self, self.teacher, pipeline)
        return cast("Backbone", self.average)


def check_teacher(objective: Objective, teacher: Backbone, pipeline: Pipeline) -> None:
    """Raises ``UserError`` for a teacher whose latents or blocks are not those of the model."""
    own, its = pipeline.backbone.spec, teacher.spec
    for what, wanted, found in (
        ("latents of", own.latent_shape, its.latent_shape),
        ("blocks of", (own.first, own.block), (its.first, its.block)),
    ):
        if wanted != found:
            raise UserError(
                f"{type(objective).__name__}: the teacher {type(teacher).__name__} has {what} {_sizes(found)} and the "
                f"model {_sizes(wanted)}; give model.objective.init_args.teacher the sizes of model.backbone."
            )


def _sizes(values: tuple[int, ...]) -> str:
    return "x".join(map(str, values))
