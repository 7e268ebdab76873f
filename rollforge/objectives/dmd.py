"""Distribution matching distillation (DMD2, arXiv 2405.14867), as Self Forcing uses it.

The gradient of the student's video is the difference of two scores at the same noisy video, in x0:

==============  ==============================================================================
number          value
==============  ==============================================================================
t               one for each video, uniform index of 1,000, shift 5, clamped to 20 .. 980
gradient        ``(f - r) / mean abs(video - r)``; f of the critic, r of the guided teacher
loss            ``0.5 mean (video - stop(video - gradient))^2``, in float64
critic          flow matching on videos of the student, 5 updates for each of the student
==============  ==============================================================================
"""

from __future__ import annotations

import torch
from torch import Tensor

from rollforge.objectives.matching import Level, Match, Matched, ScoreMatching, distance, widest
from rollforge.ranges import Finite, Positive


class DMD(ScoreMatching):
    """Moves videos of the student along the difference of the critic's and the teacher's score.

    Args:
        guidance: of the teacher's x0: ``c + guidance (c - n)``; 0 turns it off.
        shift: of the noise levels that videos are noised to.
        score_shift: of the grid from which scores take sigma; the release has 8. None: as ``shift``.
        lowest: the lowest noise level.
        highest: the highest.
        bound: the largest absolute value of the gradient. Unset: none, as released.
    """

    def __init__(
        self,
        guidance: Finite = 3.0,
        shift: Positive = 5.0,
        score_shift: Positive | None = 8.0,
        lowest: Level = 20.0,
        highest: Level = 980.0,
        bound: Positive | None = None,
    ) -> None:
        super().__init__(guidance, shift, score_shift, lowest, highest)
        self.bound = bound

    def student(self, match: Match, video: Tensor) -> Matched:
        gradient = self.gradient(match, video.detach())
        wide = video.to(widest(video))
        error = 0.5 * (wide - (wide - gradient).detach()).square()
        return Matched(error.mean(), error.detach().mean(dim=(0, 2, 3, 4)), {"gradient": gradient.abs().mean()})

    @torch.no_grad()
    def gradient(self, match: Match, video: Tensor) -> Tensor:
        """What is subtracted from a video, ``[B, F, C, h, w]``."""
        timesteps = self.drawn(video)
        noisy = self.noised(video, torch.randn_like(video), timesteps)
        fake = self.x0(match.critic, noisy, timesteps, match.condition)
        real = self.real_x0(match, noisy, timesteps)
        gradient = ((fake - real) / distance(video, real)).nan_to_num()
        return gradient if self.bound is None else gradient.clamp(-self.bound, self.bound)
