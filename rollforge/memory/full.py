"""Memory of bidirectional models: every frame attends to every frame."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rollforge.memory.attention import attention
from rollforge.memory.base import Memory, Now
from rollforge.positions import Positions, Rope
from rollforge.positions.base import Placement, placed
from rollforge.spec import ModelSpec


class FullMemory(Memory):
    """Full attention over one pass: teachers and critics.

    Args:
        spec: the backbone's.
        times: time index of each frame of the pass.
        positions: how queries and keys are rotated. Default: ``Rope()``.
    """

    def __init__(self, spec: ModelSpec, times: Sequence[float], positions: Positions | None = None) -> None:
        self.spec, self.times, self.positions = spec, tuple(times), positions or Rope()
        self.placements: list[Placement] = []

    @property
    def now(self) -> Now:
        return Now([int(time) for time in self.times], self.times)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        q, k = self.turned(layer, q), self.turned(layer, k)
        return attention(q, k, v, bias)

    def turned(self, layer: int, x: Tensor) -> Tensor:
        """Queries or keys of a layer, rotated to the times of their frames."""
        if not self.placements:
            self.placements = placed(self.positions, self.spec, self.times, x.device)
        return self.positions.turn(x, self.placements[layer])
