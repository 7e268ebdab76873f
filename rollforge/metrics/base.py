"""The metric: a streaming measure of one video in constant memory."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Metric(ABC):
    """Sees a video block by block. One object measures one video after another."""

    @abstractmethod
    def start(self, prompt: str, fps: float) -> None:
        """A new video begins."""

    @abstractmethod
    def update(self, frames: Tensor) -> None:
        """The next pixel frames, uint8 ``[T, H, W, 3]``."""

    @abstractmethod
    def compute(self) -> dict[str, list[float]]:
        """Named curves over the video so far, one number for each pixel frame."""
