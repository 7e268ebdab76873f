"""What a backbone talks to instead of a cache."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from rollforge.spec import Phase, ReadPlan

Projection = Callable[[], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Now:
    """The pass in progress, for backbones that depend on more than latents and timesteps.

    ``frames`` are the frames of the pass and ``times`` their time indices, one for each. Outside a rollout ``phase`` is
    ``DENOISE``, ``level`` is 0, and ``plan`` is None.
    """

    frames: Sequence[int] = ()
    times: Sequence[float] = ()
    phase: Phase = Phase.DENOISE
    level: int = 0
    plan: ReadPlan | None = None


class Memory(ABC):
    """Owns time indices, masks, rotation and the cache, so that a backbone owns none of them."""

    @property
    def now(self) -> Now:
        """The pass in progress; without frames where a memory does not number them."""
        return Now()

    @abstractmethod
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Self-attention of one layer.

        ``q``, ``k``, ``v`` and the result are ``[B, F * tokens, heads, head_dim]``, after q/k-norm and before RoPE. A
        pass of a phase that writes runs every layer; a pass that only reads may leave layers out.
        """

    def cross(self, layer: int, key: str, project: Projection) -> tuple[Tensor, Tensor]:
        """Keys and values of a text for one layer, as ``project`` makes them; ``key`` names the text."""
        return project()
