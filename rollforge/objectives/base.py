"""The objective: clips and the module in, losses out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TypedDict

from torch import Tensor

from rollforge.ranges import Checked

if TYPE_CHECKING:
    from rollforge.lightning.module import RolloutModule


class Clips(TypedDict):
    """A training batch: pixel frames uint8 ``[B, T, H, W, 3]`` and a caption for each clip."""

    video: Tensor
    caption: list[str]


class Objective(Checked, ABC):
    """A training loss."""

    trains = "backbone"
    """The part of the module that the loss trains."""

    @abstractmethod
    def __call__(self, module: RolloutModule, clips: Clips) -> dict[str, Tensor]:
        """Named scalars; ``loss`` is the one to minimise, the others are logged."""
