"""The objective: clips and the module in, losses out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypedDict

from torch import Tensor, nn

if TYPE_CHECKING:
    from rollforge.module import RolloutModule


class Clips(TypedDict):
    """A training batch: pixel frames uint8 ``[B, T, H, W, 3]`` and a caption for each clip."""

    video: Tensor
    caption: list[str]


class Objective(ABC):
    """A training loss."""

    def parameters(self, module: RolloutModule) -> Iterable[nn.Parameter]:
        """What the loss trains: the backbone, unless said otherwise."""
        return module.backbone.parameters()

    @abstractmethod
    def __call__(self, module: RolloutModule, clips: Clips) -> dict[str, Tensor]:
        """Named scalars; ``loss`` is the one to minimise, the others are logged."""
