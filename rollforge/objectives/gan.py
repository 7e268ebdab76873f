"""A relativistic GAN (R3GAN, arXiv 2501.05441), as Self Forcing uses it.

==============  ==============================================================================
number          value
==============  ==============================================================================
t               as in ``DMD``; the same for the video of the student and the true one
student         ``mean softplus(-(D(fake) - D(real)))``, each with noise of its own
critic          ``mean softplus(-(D(real) - D(fake)))``, both with the same noise
R1, R2          ``weight mean ((D(x + .05 eps) - D(x)) / .05)^2``, of the true and the
                student's noisy video, each times 1/2; weight .075 is 30 without the division
taps            after layers 13, 21 and 29 of 30, here as shares of the depth
==============  ==============================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from rollforge.backbones.base import Backbone
from rollforge.objectives.discriminator import Discriminator
from rollforge.objectives.matching import Level, Match, Matched, Matching
from rollforge.ranges import Count, NonNegative, Positive, Range

Depth = Annotated[float, Range(0, below=1)]


class GAN(Matching):
    """A discriminator separates videos of the student from true ones; the update ratio of the release is 1.

    Args:
        taps: after which layers of the critic hidden tokens are read, as shares of the depth.
        regulariser: weight of R1, on true videos, and of R2, on those of the student.
        perturbation: standard deviation of the noise whose effect on the logit R1 and R2 keep small.
        ffn_dim: width of the feed-forward layers behind the taps. Default: four times the width of the critic.
        shift: of the noise levels that videos are noised to.
        lowest: the lowest noise level.
        highest: the highest.
    """

    needs_teacher = False
    needs_clips = True

    def __init__(
        self,
        taps: Sequence[Depth] = (13 / 30, 21 / 30, 29 / 30),
        regulariser: NonNegative = 0.075,
        perturbation: Positive = 0.05,
        ffn_dim: Count | None = None,
        shift: Positive = 5.0,
        lowest: Level = 20.0,
        highest: Level = 980.0,
    ) -> None:
        super().__init__(shift, lowest, highest)
        self.taps, self.ffn_dim = tuple(taps), ffn_dim
        self.regulariser, self.perturbation = regulariser, perturbation

    def critic(self, network: Backbone) -> nn.Module:
        return Discriminator(network, self.taps, self.ffn_dim)

    def student(self, match: Match, video: Tensor) -> Matched:
        real, timesteps = self._real(match, video), self.drawn(video)
        fake_noisy = self.noised(video, torch.randn_like(video), timesteps)
        real_noisy = self.noised(real, torch.randn_like(real), timesteps)
        fake, true = (match.critic(each, timesteps, match.condition) for each in (fake_noisy, real_noisy))
        return Matched(softplus(true - fake).mean(), logged={"logit_fake": fake.mean(), "logit_real": true.mean()})

    def train_critic(self, match: Match, video: Tensor) -> Matched:
        real, timesteps = self._real(match, video), self.drawn(video)
        noise = torch.randn_like(video)
        noisy = [self.noised(each, noise, timesteps) for each in (video, real)]
        fake, true = (match.critic(each, timesteps, match.condition) for each in noisy)
        loss, logged = softplus(fake - true).mean(), {"logit_fake": fake.mean(), "logit_real": true.mean()}
        if self.regulariser:
            apart = [
                match.critic(each + self.perturbation * torch.randn_like(each), timesteps, match.condition) - logit
                for each, logit in ((noisy[1], true), (noisy[0], fake))
            ]
            r1, r2 = (self.regulariser * (each / self.perturbation).square().mean() for each in apart)
            loss, logged = loss + 0.5 * (r1 + r2), logged | {"d_loss": loss, "r1_loss": r1, "r2_loss": r2}
        return Matched(loss, logged=logged)

    def _real(self, match: Match, video: Tensor) -> Tensor:
        assert match.real is not None
        return match.real.to(video)
