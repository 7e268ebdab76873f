"""The feature space: frames to vectors, the same whatever else is in the batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

from torch import Tensor

from rollforge.ranges import Checked


class Features(Checked, ABC):
    """A frozen network that sees one frame at a time. It keeps nothing between calls, so that all copies are one."""

    name: str  # how curves begin that are measured in it

    @abstractmethod
    def embed(self, frames: Tensor) -> Tensor:
        """Features of pixel frames, uint8 ``[T, H, W, 3]`` to float32 ``[T, D]`` on the CPU, of any length."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Itself: metrics are copied for every video, weights need not be."""
        return self
