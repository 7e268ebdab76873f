"""Many-step Euler integration of the flow, with classifier-free guidance."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from rollforge.ranges import Count, Finite, Positive, Range
from rollforge.samplers.base import TIMESTEPS, Finished, Job, Pass, Passes, Sampler, Timestep, shifted


class Euler(Sampler):
    """Follows the flow from noise to clean in many small steps: for teacher-forced models.

    Args:
        steps: forward passes for a block (for each branch).
        shift: moves the levels towards noise; 1 spaces them evenly.
        guidance: classifier-free guidance scale; 1 turns it off and saves half the work.
        context_noise: timestep of the commit pass whose keys and values later blocks read.
        guided_blocks: guidance ends after that many blocks; unset, it never does. Later blocks have a history, and take
            half the passes.
    """

    def __init__(
        self,
        steps: Annotated[int, Range(1, 10_000)] = 32,
        shift: Positive = 5.0,
        guidance: Finite = 1.0,
        context_noise: Timestep = 0.0,
        guided_blocks: Count | None = None,
    ) -> None:
        levels = [TIMESTEPS * (1 - n / steps) for n in range(steps)]
        self.timesteps = [*(shifted(t, shift) for t in levels), 0.0]
        self.guidance, self.context_noise, self.guided_blocks = guidance, context_noise, guided_blocks
        self.guidance_branches = ("prompt",) if guidance == 1 else ("prompt", "negative")

    def guides(self, index: int) -> bool:
        """Whether block number ``index`` is generated with guidance."""
        return self.guidance != 1 and (self.guided_blocks is None or index < self.guided_blocks)

    def run(self, job: Job) -> Passes:
        for step in job.steps:
            x = job.noise(step, 0)
            for level, (t, lower) in enumerate(zip(self.timesteps, self.timesteps[1:], strict=False)):
                now = replace(step, level=level)
                if self.guides(step.index):
                    flow, negative = yield Pass(now, x, t, guidance_branch=("prompt", "negative"))
                    flow = negative + self.guidance * (flow - negative)
                else:
                    flow = yield Pass(now, x, t)
                x = x + (lower - t) / TIMESTEPS * flow
            yield Finished(step, x)
            yield from self.commit(step, x, job.noise)
