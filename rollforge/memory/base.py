"""What a backbone talks to instead of a cache."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

Projection = Callable[[], tuple[Tensor, Tensor]]


class Memory(ABC):
    """Owns time indices, masks, rotation and the cache, so that a backbone owns none of them."""

    @abstractmethod
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Self-attention of one layer.

        ``q``, ``k``, ``v`` and the answer are ``[B, F * tokens, heads, head_dim]``, after q/k-norm and before RoPE.
        """

    def cross(self, layer: int, key: str, project: Projection) -> tuple[Tensor, Tensor]:
        """Keys and values of a text for one layer, as ``project`` makes them; ``key`` names the text."""
        return project()
