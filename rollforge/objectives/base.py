"""The objective: clips and the pipeline in, losses out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypedDict

from torch import Tensor

from rollforge.pipeline import Pipeline
from rollforge.ranges import Checked


class Clips(TypedDict):
    """A training batch: pixel frames uint8 ``[B, T, H, W, 3]`` and a caption for each clip."""

    video: Tensor
    caption: list[str]


class Objective(Checked, ABC):
    """A training loss."""

    trains = "backbone"
    """The component that the loss trains: ``backbone`` or ``codec``."""

    step = 0
    """Optimizer steps done so far, set before each call."""

    @abstractmethod
    def __call__(self, pipeline: Pipeline, clips: Clips) -> dict[str, Tensor]:
        """Named scalars; ``loss`` is the one to minimise, the others are logged."""
