"""What a matching loss is, and what those that compare scores have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from rollforge.backbones.base import Backbone, Condition
from rollforge.memory import FullMemory
from rollforge.objectives.levels import RELEASED, grid, nearest
from rollforge.objectives.parallel import prediction
from rollforge.prediction import to_flow
from rollforge.ranges import Checked, Finite, Positive, Range
from rollforge.samplers.base import TIMESTEPS, add_noise

Level = Annotated[float, Range(0, TIMESTEPS)]


@dataclass(frozen=True)
class Match:
    """What a matching loss works with at one step.

    Args:
        critic: the network that learns the student's videos.
        condition: text features of the prompts.
        teacher: the frozen network, where there is one.
        negative: text features of the negative prompt.
        real: latents of true clips, ``[B, F, C, h, w]``, where the loss needs them.
    """

    critic: Any
    condition: Condition
    teacher: Backbone | None = None
    negative: Condition | None = None
    real: Tensor | None = None


@dataclass(frozen=True)
class Matched:
    """A loss, what it is for each frame of the videos ``[F]``, and what else is logged."""

    loss: Tensor
    frames: Tensor | None = None
    logged: dict[str, Tensor] = field(default_factory=dict)


class Matching(Checked, ABC):
    """How the distribution of a student's videos is moved towards that of true ones; ``SelfForcing`` takes one.

    Args:
        shift: of the noise levels that videos are noised to.
        lowest: the lowest of these levels.
        highest: the highest.
    """

    needs_teacher = True
    """Whether it reads a frozen teacher."""
    needs_clips = False
    """Whether it reads latents of true clips."""

    def __init__(self, shift: Positive = 5.0, lowest: Level = 20.0, highest: Level = 980.0) -> None:
        self.shift, self.lowest, self.highest = shift, lowest, highest

    def critic(self, network: Backbone) -> nn.Module:
        """The critic, made of a network. Default: the network itself, which learns the flow of the student's videos."""
        return network

    @abstractmethod
    def student(self, match: Match, video: Tensor) -> Matched:
        """The loss of the student for its video ``[B, F, C, h, w]``, which has gradients."""

    @abstractmethod
    def train_critic(self, match: Match, video: Tensor) -> Matched:
        """The loss of the critic for a video of the student, which has none."""

    def drawn(self, video: Tensor) -> Tensor:
        """A timestep for each video, the same for all of its frames, ``[B, F]``."""
        u = torch.randint(RELEASED, (len(video), 1), device=video.device) / RELEASED
        t = self.shift * u / (1 + (self.shift - 1) * u) * TIMESTEPS  # in this order, as released
        return t.clamp(self.lowest, self.highest).expand(video.shape[:2])

    def noised(self, video: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Videos with noise, at the level of the grid that is nearest to their timestep."""
        return add_noise(video, noise, nearest(timesteps, grid(RELEASED, self.shift)))


class ScoreMatching(Matching):
    """Losses that compare the scores of a frozen teacher and of a critic, both bidirectional.

    Args:
        guidance: of the teacher's x0: ``c + guidance (c - n)``, c with the prompt and n with the negative one; 0 turns
            it off.
        shift: of the noise levels that videos are noised to.
        score_shift: of the grid whose nearest level is taken for sigma where a score forms its x0; the release has 8
            there. None takes the grid of ``shift``.
        lowest: the lowest noise level.
        highest: the highest.
    """

    def __init__(
        self,
        guidance: Finite = 3.0,
        shift: Positive = 5.0,
        score_shift: Positive | None = 8.0,
        lowest: Level = 20.0,
        highest: Level = 980.0,
    ) -> None:
        super().__init__(shift, lowest, highest)
        self.guidance, self.score_shift = guidance, score_shift

    def flow(self, network: Backbone, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """The flow that a bidirectional network predicts for noisy videos at ``timesteps`` ``[B, F]``."""
        memory = FullMemory(network.spec, range(noisy.shape[1]), network.positions)
        made = prediction(network, noisy, timesteps, condition, memory)
        return to_flow(network.spec, made, noisy, timesteps)

    def sigma(self, timesteps: Tensor) -> Tensor:
        """The sigma that scores take for timesteps, to be multiplied with videos."""
        shift = self.shift if self.score_shift is None else self.score_shift
        return (nearest(timesteps, grid(RELEASED, shift)) / TIMESTEPS)[..., None, None, None]

    def x0(self, network: Backbone, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """The clean videos that a score corresponds to."""
        return noisy - self.sigma(timesteps) * self.flow(network, noisy, timesteps, condition)

    def real_x0(self, match: Match, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The clean videos that the teacher's score corresponds to, with guidance."""
        assert match.teacher is not None
        asked = self.x0(match.teacher, noisy, timesteps, match.condition)
        if not self.guidance:
            return asked
        assert match.negative is not None
        return asked + self.guidance * (asked - self.x0(match.teacher, noisy, timesteps, match.negative))

    def train_critic(self, match: Match, video: Tensor) -> Matched:
        """Flow matching on a video of the student: ``mean (flow - (noise - video))^2``.

        The flow is that of the critic's x0: with another ``score_shift`` it is scaled by the two sigmas.
        """
        timesteps, noise = self.drawn(video), torch.randn_like(video)
        made = self.flow(match.critic, self.noised(video, noise, timesteps), timesteps, match.condition)
        known = (nearest(timesteps, grid(RELEASED, self.shift)) / TIMESTEPS)[..., None, None, None]
        error = (made * (self.sigma(timesteps) / known) - (noise - video)).square()
        return Matched(error.mean(), error.detach().mean(dim=(0, 2, 3, 4)))


def widest(video: Tensor) -> torch.dtype:
    """Float64, where the device has it."""
    return torch.float32 if video.device.type == "mps" else torch.float64


def distance(video: Tensor, other: Tensor) -> Tensor:
    """The mean absolute difference of each video, ``[B, 1, 1, 1, 1]``: what gradients are divided by."""
    return (video - other).abs().mean(dim=(1, 2, 3, 4), keepdim=True)
