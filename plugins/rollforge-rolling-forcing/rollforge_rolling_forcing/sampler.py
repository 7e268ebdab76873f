"""The sampler: a window of blocks in progress, each one noise level below the block after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rollforge.ranges import Positive
from rollforge.samplers import FewStep, Finished, Job, Pass, Passes
from rollforge.samplers.base import TIMESTEPS, Noise, Timestep, add_noise
from rollforge.samplers.few_step import Levels
from rollforge.spec import Phase, Step


class JointFewStep(FewStep):
    """Denoises as many blocks in one pass as there are noise levels, and finishes one block in each pass.

    A new block enters at the highest level in every pass. In a pass each block predicts its clean frames and is noised
    to its next level; the oldest is at the lowest level and becomes final. At the start of a video the window grows by
    one block in each pass, and at the end it shrinks by one. The frames of a pass attend to each other without a mask.
    Source: Rolling Forcing, whose program also lets the first block's estimates enter the memory before it is final.

    Args:
        timesteps: noise levels before the shift, falling, 1000 is noise; as many blocks are in progress.
        shift: moves the levels towards noise (Wan: 5); 1 leaves them.
        context_noise: timestep of the commit pass whose keys and values later blocks read.
        estimates: whether the oldest block enters the memory after every pass, final or not (clean, at timestep 0), as
            in the released program. ``RollingForcing`` never reads such an estimate: without them the video is the
            same, and its first block takes fewer passes.
    """

    def __init__(
        self,
        timesteps: Levels = (1000, 800, 600, 400, 200),
        shift: Positive = 5.0,
        context_noise: Timestep = 0.0,
        estimates: bool = True,
    ) -> None:
        super().__init__(timesteps, shift, context_noise)
        self.in_flight, self.estimates = len(self.timesteps), estimates
        self.latents: list[Tensor] = []  # of the blocks in progress, the oldest first
        self.levels: list[int] = []  # the number of the noise level that each is at

    def run(self, job: Job) -> Passes:
        coming = iter(job.steps)
        steps = [next(coming) for _ in self.latents]
        while True:
            if (entering := next(coming, None)) is not None:
                steps.append(entering)
                self.latents.append(job.noise(entering, 0))
                self.levels.append(0)
            if not steps:
                return
            flow = yield self._joint_pass(steps)
            clean = self._advance(steps, flow, job.noise)
            if self.levels[0] < self.in_flight:
                if self.estimates:
                    yield Pass(replace(steps[0], phase=Phase.ESTIMATE), clean, 0.0)
                continue
            oldest = steps.pop(0)
            self.latents.pop(0)
            self.levels.pop(0)
            yield Finished(oldest, clean)
            yield from self.commit(oldest, clean, job.noise)

    def dropped(self, step: Step) -> None:
        """All blocks in progress start again, from new noise."""
        self.latents, self.levels = [], []

    def _joint_pass(self, steps: Sequence[Step]) -> Pass:
        """One pass over all blocks in progress, each frame at its own noise level."""
        x = torch.cat(self.latents, dim=1)
        frames = [self.timesteps[level] for level, step in zip(self.levels, steps, strict=True) for _ in step.frames]
        step = replace(steps[0], level=self.levels[0], count=len(frames))
        return Pass(step, x, torch.tensor(frames, device=x.device).expand(len(x), -1))

    def _advance(self, steps: Sequence[Step], flow: Tensor, noise: Noise) -> Tensor:
        """Takes every block to its next level. Returns the clean frames that the oldest predicts."""
        flows = torch.split(flow, [len(step.frames) for step in steps], dim=1)
        blocks = zip(steps, self.latents, self.levels, flows, strict=True)
        predicted: list[Tensor] = [x - self.timesteps[level] / TIMESTEPS * part for _, x, level, part in blocks]
        self.levels = [level + 1 for level in self.levels]
        self.latents = [
            add_noise(clean, noise(step, level), self.timesteps[level]) if level < self.in_flight else clean
            for step, clean, level in zip(steps, predicted, self.levels, strict=True)
        ]
        return predicted[0]
