"""What the four methods share: clips in, features of every view, one loss."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from rollforge.errors import UserError
from rollforge.lightning.fit_module import FitModule
from rollforge.objectives.base import Clips
from rollforge.ranges import Count, NonNegative, Positive, Share, checked
from rollforge_persistence.clips import CLIP
from rollforge_persistence.encoder import WIDTH, Encoder, Width
from rollforge_persistence.views import augmented


@checked
class Persistence(FitModule):
    """Makes the features of ``rho`` clips of a video alike.

    Args:
        width: channels of a feature.
        clip: frames of a clip; the data give ``rho`` of them after each other.
        lr: learning rate of AdamW at its highest, reached after ``warm_up`` and lowered by half a cosine to 0.
        weight_decay: of AdamW.
        warm_up: share of the training in which the learning rate rises.
    """

    trains = "encoder"

    def __init__(
        self,
        width: Width = WIDTH,
        clip: Count = CLIP,
        lr: Positive = 2e-3,
        weight_decay: NonNegative = 1e-4,
        warm_up: Share = 0.1,
    ) -> None:
        super().__init__()
        self.clip, self.lr, self.weight_decay, self.warm_up = clip, lr, weight_decay, warm_up
        self.encoder = Encoder(width)

    @abstractmethod
    def loss(self, views: list[Tensor]) -> Tensor:
        """The loss of ``rho`` views ``[B, T, 3, H, W]`` of the same videos."""

    def check(self, clip: Mapping[str, Any]) -> None:
        self.rho(len(clip["video"]))
        _ = self.steps

    def losses(self, clips: Clips) -> dict[str, Tensor]:
        return {"loss": self.loss(self.views(clips["video"]))}

    def views(self, video: Tensor) -> list[Tensor]:
        """Each clip of uint8 ``[B, rho clip, H, W, 3]`` under a random change of its own; a single one under two.

        Raises ``UserError`` for frames that are not complete clips.
        """
        rho = self.rho(video.shape[1])
        clips = video.permute(0, 1, 4, 2, 3).float().div(255).unflatten(1, (rho, self.clip)).unbind(1)
        return [augmented(each) for each in (clips * 2 if rho == 1 else clips)]

    def rho(self, frames: int) -> int:
        """Clips in so many frames. Raises ``UserError`` for frames that are not complete clips."""
        rho, rest = divmod(frames, self.clip)
        if rest or not rho:
            raise UserError(
                f"{type(self).__name__}: {frames} frames of a video are not complete clips of {self.clip}; take "
                "WorldPairs or VideoPairs as data.train_dataset, with the same clip."
            )
        return rho

    def together(self, network: nn.Module, views: list[Tensor]) -> list[Tensor]:
        """A network's outputs for each view, run as one batch."""
        outputs: Tensor = network(torch.cat(views))
        return [*outputs.chunk(len(views))]

    def configure_optimizers(self) -> Any:
        """AdamW under half a cosine. Raises ``UserError`` for a training whose length is not known."""
        steps = self.steps
        weights = [each for each in self.parameters() if each.requires_grad]
        optimizer = AdamW(weights, self.lr, weight_decay=self.weight_decay)
        schedule = LambdaLR(optimizer, lambda step: rate(step, steps, self.warm_up))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class WithMomentum(Persistence):
    """A method whose positives come from a slow copy of the encoder and its projection."""

    first_momentum: float
    projection: nn.Sequential

    def copy(self) -> None:
        """Makes the slow copy of ``encoder`` and ``projection``."""
        self.slow = deepcopy(nn.Sequential(self.encoder, self.projection)).requires_grad_(False)

    @property
    def fast(self) -> nn.Sequential:
        """What the slow copy follows."""
        return nn.Sequential(self.encoder, self.projection)

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        step = self.global_step
        super().optimizer_step(*arguments, **options)
        follow(self.slow, self.fast, momentum(step, self.steps, self.first_momentum))


def rate(step: int, steps: int, warm_up: float) -> float:
    """The learning rate at a step as a share of the highest: rises in a line, then falls by half a cosine to 0."""
    rising = warm_up * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    return (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1.0, steps - rising)))) / 2


def momentum(step: int, steps: int, first: float) -> float:
    """The share of the slow copy that is kept at a step: ``first`` at step 0, 1 at the last."""
    return 1 - (1 - first) * (math.cos(math.pi * min(step, steps) / steps) + 1) / 2


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, kept: float) -> None:
    """Moves every weight of the slow copy towards the fast one's."""
    for mean, value in zip(slow.parameters(), fast.parameters(), strict=True):
        mean.lerp_(value, 1 - kept)


def ordered_pairs(count: int) -> Iterable[tuple[int, int]]:
    """Every query with each of the other clips."""
    return ((query, key) for query in range(count) for key in range(count) if key != query)


def neighbours(count: int) -> Iterable[tuple[int, int]]:
    """Each clip with the next."""
    return ((first, first + 1) for first in range(count - 1))
