"""Few-step sampling with fresh noise between the steps (Self Forcing, CausVid, Causal Forcing)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from rollforge.errors import UserError
from rollforge.ranges import Positive, Range
from rollforge.samplers.base import TIMESTEPS, Finished, Job, Pass, Passes, Sampler, Timestep, add_noise, shifted

Levels = Sequence[Annotated[float, Range(above=0, most=TIMESTEPS)]]


class FewStep(Sampler):
    """Predicts the clean block, re-noises it to the next level, and repeats: for distilled models.

    Args:
        timesteps: noise levels before the shift, falling, 1000 is noise.
        shift: moves the levels towards noise (Wan: 5); 1 leaves them.
        context_noise: timestep of the commit pass whose keys and values later blocks read.
        first_timesteps: levels of the first generated block, if they differ (Causal Forcing with 1 or 2
            steps); unset, ``timesteps``.
    """

    def __init__(
        self,
        timesteps: Levels = (1000, 750, 500, 250),
        shift: Positive = 5.0,
        context_noise: Timestep = 0.0,
        first_timesteps: Levels | None = None,
    ) -> None:
        self.timesteps = self._shifted("timesteps", timesteps, shift)
        self.first_timesteps = self.timesteps
        if first_timesteps is not None:
            self.first_timesteps = self._shifted("first_timesteps", first_timesteps, shift)
        self.context_noise = context_noise

    @property
    def commit_level(self) -> int:
        return max(len(self.timesteps), len(self.first_timesteps))

    def run(self, job: Job) -> Passes:
        for step in job.steps:
            timesteps = self.first_timesteps if step.index == job.first else self.timesteps
            x = job.noise(step, 0)
            for level, t in enumerate(timesteps):
                flow = yield Pass(replace(step, level=level), x, t)
                clean = x - t / TIMESTEPS * flow
                if t != timesteps[-1]:
                    x = add_noise(clean, job.noise(step, level + 1), timesteps[level + 1])
            yield Finished(step, clean)
            yield from self.commit(step, clean, job.noise)

    def _shifted(self, name: str, timesteps: Sequence[float], shift: float) -> list[float]:
        levels = [float(t) for t in timesteps]
        if not levels or levels != sorted(set(levels), reverse=True):
            raise UserError(
                f"{type(self).__name__}: {name} must fall from at most 1000 to above 0, not {list(timesteps)}."
            )
        return [shifted(t, shift) for t in levels]
