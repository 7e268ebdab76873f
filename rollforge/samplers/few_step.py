"""Few-step sampling with fresh noise between the steps (Self Forcing, CausVid)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from rollforge.errors import UserError
from rollforge.ranges import Positive, Range
from rollforge.samplers.base import TIMESTEPS, Finished, Job, Pass, Passes, Sampler, Timestep, add_noise, shifted


class FewStep(Sampler):
    """Predicts the clean block, re-noises it to the next level, and repeats: for distilled models.

    Args:
        timesteps: noise levels before the shift, falling, 1000 is noise.
        shift: moves the levels towards noise (Wan: 5); 1 leaves them.
        context_noise: timestep of the commit pass whose keys and values later blocks read.
    """

    def __init__(
        self,
        timesteps: Sequence[Annotated[float, Range(above=0, most=TIMESTEPS)]] = (1000, 750, 500, 250),
        shift: Positive = 5.0,
        context_noise: Timestep = 0.0,
    ) -> None:
        levels = [float(t) for t in timesteps]
        if not levels or levels != sorted(set(levels), reverse=True):
            raise UserError(f"FewStep: timesteps must fall from at most 1000 to above 0, not {list(timesteps)}.")
        self.timesteps = [shifted(t, shift) for t in levels]
        self.context_noise = context_noise

    def run(self, job: Job) -> Passes:
        for step in job.steps:
            x = job.noise(step, 0)
            for level, t in enumerate(self.timesteps):
                flow = yield Pass(replace(step, level=level), x, t)
                clean = x - t / TIMESTEPS * flow
                if t != self.timesteps[-1]:
                    x = add_noise(clean, job.noise(step, level + 1), self.timesteps[level + 1])
            yield Finished(step, clean)
            yield from self.commit(step, clean, job.noise)
