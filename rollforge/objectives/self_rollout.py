"""The rollout that a few-step model is trained through: each block leaves its sampler at one step, the exit step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from rollforge.errors import UserError
from rollforge.objectives.levels import RELEASED, grid, nearest
from rollforge.objectives.processes import of_first
from rollforge.samplers.base import TIMESTEPS, Finished, Job, Keep, Noise, Pass, Passes, Sampler, add_noise
from rollforge.spec import Phase, Step

History = Literal["straight_through", "cut", "commit"]
"""Where the gradient of a later block goes: to the exit pass of an earlier one, nowhere, or to its commit pass."""


class ExitStep(Sampler):
    """Runs another sampler up to one of its steps, whose prediction of the clean block is the block.

    Args:
        sampler: a sampler without guidance, whose passes each predict the clean block, such as ``FewStep``.
        exit: the number of the step, from 0.
        first_gradient: frame of the first block whose exit pass has gradients.
        history: where gradients of later blocks go.
        commit_grid: shift of the grid whose smallest level the latents of a commit pass are noised to, although the
            network gets timestep 0, as in the released training. None commits as ``sampler`` does.
        checkpoint: whether passes with gradients run again in the backward pass.
    """

    def __init__(
        self,
        sampler: Sampler,
        exit: int,
        first_gradient: int = 0,
        history: History = "straight_through",
        commit_grid: float | None = None,
        checkpoint: bool = False,
    ) -> None:
        self.sampler, self.exit, self.first_gradient, self.history = sampler, exit, first_gradient, history
        self.timesteps, self.context_noise, self.checkpoint = sampler.timesteps, sampler.context_noise, checkpoint
        self.commit_noise = self.context_noise
        if commit_grid is not None:
            known = nearest(torch.tensor(self.context_noise), grid(RELEASED, commit_grid))
            self.commit_noise = float(known)

    @property
    def commit_level(self) -> int:
        return self.sampler.commit_level

    def run(self, job: Job) -> Passes:
        for step in job.steps:
            passes = self.sampler.run(replace(job, steps=[step]))
            request = next(passes)
            while isinstance(request, Pass) and request.step.level < self.exit:
                flow = yield request
                request = passes.send(flow)
            passes.close()
            assert isinstance(request, Pass)
            gradient = step.start >= self.first_gradient
            now = replace(request.step, keeps=gradient and self.history == "straight_through")
            flow = yield replace(request, step=now, gradient=gradient, checkpoint=self.checkpoint)
            clean = request.latents - _sigma(request.timestep) * flow
            yield Finished(now, clean)
            yield from self.commit(now, clean, job.noise)

    def commit(self, step: Step, clean: Tensor, noise: Noise) -> Iterator[Pass | Keep]:
        now = replace(step, phase=Phase.COMMIT, level=self.commit_level, keeps=False)
        if self.commit_noise:
            clean = add_noise(clean, noise(step, now.level), self.commit_noise)
        gradient = self.history == "commit" and step.start >= self.first_gradient
        yield Pass(now, clean, self.context_noise, gradient=gradient, checkpoint=self.checkpoint)


def exit_steps(sampler: Sampler, chosen: Sequence[int] | None) -> list[int]:
    """The steps of a sampler that may be the exit step.

    Raises ``UserError`` for a sampler with guidance, one whose first block has other steps, and steps that it does not
    have.
    """
    name, count = type(sampler).__name__, sum(level > 0 for level in sampler.timesteps)
    if sampler.guidance_branches != ("prompt",) or sampler.needs_extra or sampler.in_flight > 1 or not count:
        raise UserError(
            f"SelfForcing trains the steps of a few-step sampler without guidance, and model.sampler is {name}; set it "
            "to FewStep."
        )
    if list(getattr(sampler, "first_timesteps", sampler.timesteps)) != list(sampler.timesteps):
        raise UserError(
            f"SelfForcing trains samplers whose blocks all have the same steps; leave first_timesteps of {name} unset "
            "in training."
        )
    if wrong := [step for step in chosen or () if step >= count]:
        raise UserError(
            f"SelfForcing.exit_steps names step {wrong[0]}, and the sampler {name} has the steps 0 to {count - 1}."
        )
    return list(chosen or range(count))


def drawn_exit(steps: Sequence[int]) -> int:
    """One of the steps, drawn uniformly; the same in all processes."""
    return steps[int(of_first(torch.randint(len(steps), ())))]


def _sigma(timestep: float | Tensor) -> float | Tensor:
    sigma = timestep / TIMESTEPS
    return sigma[..., None, None, None] if isinstance(sigma, Tensor) else sigma
