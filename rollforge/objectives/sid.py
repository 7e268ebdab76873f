"""Score identity distillation (SiD, arXiv 2404.04057), as Self Forcing uses it.

==============  ==============================================================================
number          value
==============  ==============================================================================
t, f, r         as in ``DMD``, but all with gradients: through the noisy video and both scores
loss            ``mean((r - f) ((r - video) - alpha (r - f)) / stop(mean abs(video - r)))``
alpha           1
==============  ==============================================================================
"""

from __future__ import annotations

import torch
from torch import Tensor

from rollforge.objectives.matching import Level, Match, Matched, ScoreMatching, distance, widest
from rollforge.ranges import Finite, Positive


class SiD(ScoreMatching):
    """Matches scores by an identity that holds for the true ones, with gradients through both.

    Args:
        alpha: how much of the scores' difference is taken off.
        guidance: of the teacher's x0: ``c + guidance (c - n)``; 0 turns it off.
        shift: of the noise levels that videos are noised to.
        score_shift: of the grid from which scores take sigma; the release has 8. None: as ``shift``.
        lowest: the lowest noise level.
        highest: the highest.
    """

    def __init__(
        self,
        alpha: Finite = 1.0,
        guidance: Finite = 3.0,
        shift: Positive = 5.0,
        score_shift: Positive | None = 8.0,
        lowest: Level = 20.0,
        highest: Level = 980.0,
    ) -> None:
        super().__init__(guidance, shift, score_shift, lowest, highest)
        self.alpha = alpha

    def student(self, match: Match, video: Tensor) -> Matched:
        timesteps = self.drawn(video)
        noisy = self.noised(video, torch.randn_like(video), timesteps)
        fake = self.x0(match.critic, noisy, timesteps, match.condition)
        real = self.real_x0(match, noisy, timesteps)
        scale = distance(video, real).detach()
        apart, left = ((real - each).to(widest(video)) for each in (fake, video))
        error = (apart * (left - self.alpha * apart) / scale).nan_to_num()
        return Matched(error.mean(), error.detach().mean(dim=(0, 2, 3, 4)))
