"""Memory of bidirectional models: every frame sees every frame."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rollforge.memory.attention import attention
from rollforge.memory.base import Memory, Now
from rollforge.memory.rope import Rope, Rotation, rotate
from rollforge.spec import ModelSpec


class FullMemory(Memory):
    """Full attention over one pass: teachers and critics.

    Args:
        spec: the backbone's.
        times: time index of each frame of the pass.
        rope: rotary embedding.
    """

    def __init__(self, spec: ModelSpec, times: Sequence[float], rope: Rope | None = None) -> None:
        self.spec, self.times, self.rope = spec, tuple(times), rope or Rope()
        self.rotation: Rotation | None = None

    @property
    def now(self) -> Now:
        return Now([int(time) for time in self.times], self.times)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.rotation is None:
            self.rotation = self.rope.rotation(self.spec, self.times, q.device)
        return attention(rotate(q, self.rotation), rotate(k, self.rotation), v)
