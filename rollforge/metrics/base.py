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
    def update(self, frames: Tensor, start: int) -> dict[str, Tensor]:
        """Measures pixel frames ``start, start + 1, ...``, uint8 ``[T, H, W, 3]``: named curves, one number a frame.

        Frames may be left out between two calls, never come back.
        """

    def truth(self, prompt: str, seed: int, frames: int) -> Tensor | None:
        """True video for a prompt, uint8 ``[T, H, W, 3]``, where the metric knows what is true."""
        return None
