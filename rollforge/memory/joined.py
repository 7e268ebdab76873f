"""Guidance branches that run as one batch, each with its own memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rollforge.memory.base import LevelFeatures, Memory, Now, Projection, Recurrent, TextKeys
from rollforge.memory.cached import CachedMemory
from rollforge.memory.reading import Reading, check_attended, check_layer
from rollforge.memory.rollout import RolloutMemory
from rollforge.memory.slots import JointBuffers


class JoinedMemory(Memory):
    """The memories of several guidance branches, in a pass that runs all of them.

    The rows of the batch are those of the first branch, then those of the second. Each memory keeps its own, so that a
    snapshot does not depend on whether its branch ran alone. Their buffers are rows of the same tensors, and one call
    attends to all of them; where branches do not read alike, each attends to its own.

    Args:
        memories: of the branches. ``begin`` and ``end`` are called on each of them.
    """

    def __init__(self, memories: Sequence[CachedMemory]) -> None:
        self.memories = tuple(memories)
        self._own = [memory for memory in self.memories if isinstance(memory, RolloutMemory)]
        buffers = JointBuffers(len(self._own))
        for n, memory in enumerate(self._own):
            memory.joint = buffers, n
        self._readings: list[Reading | None] = []  # of all branches, where they read alike
        self.levels: LevelFeatures = {}
        self._text: TextKeys = {}  # made before the pass
        self._text_key: str | None = None
        self._texts: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}  # by layer and name, as the network made them

    @property
    def now(self) -> Now:
        return self.memories[0].now

    @property
    def nbytes(self) -> int:
        texts = (*self._text.values(), *self._texts.values())
        return sum(x.nbytes for pair in texts for x in pair)  # the rest is in the memories

    def begin(self) -> None:
        """Prepares a pass, after ``begin`` of the memories."""
        if len(self._own) == len(self.memories):
            first, *others = self._own
            self._readings = [first.reading_with(others, layer) for layer in range(first.spec.layers)]

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        count = len(self.memories)
        for memory, *each in zip(self.memories, k.chunk(count), v.chunk(count), strict=True):
            memory.write(layer, *each)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        if self._readings:
            check_layer(self._own[0].spec, layer)
        if self._readings and (reading := self._readings[layer]) is not None:
            check_attended(self._own[0].spec, layer, reading, q, k, v)
            self.write(layer, k, v)
            return self._own[0].read(layer, reading, q, k, v, bias)
        count = len(self.memories)
        own = [bias] * count if bias is None or bias.dim() < 4 or len(bias) == 1 else bias.chunk(count)
        rows = zip(q.chunk(count), k.chunk(count), v.chunk(count), own, strict=True)
        return torch.cat([memory.attend(layer, *each) for memory, each in zip(self.memories, rows, strict=True)])

    def set_text(self, key: str, project: Callable[[], TextKeys]) -> None:
        """As ``CachedMemory.set_text``."""
        if key != self._text_key:
            self._text, self._text_key = dict(project()), key

    def text(self, layer: int) -> tuple[Tensor, Tensor] | None:
        if (kept := self._text.get(layer)) is not None and self.memories[0].watch is not None:
            self._show_text(layer, kept[0])
        return kept

    def cross(self, layer: int, key: str, project: Projection) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled():
            return project()
        if (layer, key) not in self._texts:
            self._texts = {place: kept for place, kept in self._texts.items() if place[1] == key}
            self._texts[layer, key] = project()
        if self.memories[0].watch is not None:
            self._show_text(layer, self._texts[layer, key][0])
        return self._texts[layer, key]

    @torch.compiler.disable  # type: ignore[untyped-decorator] # torch gives it no type
    def _show_text(self, layer: int, k: Tensor) -> None:
        if (watch := self.memories[0].watch) is not None:
            watch.text(layer, k.chunk(len(self.memories))[0])

    def level(self, layer: int) -> tuple[Tensor, ...] | None:
        return self.levels.get(layer)

    def carry(self, layer: int, name: str, step: Recurrent) -> Tensor:
        raise ValueError("Guidance branches of a network that carries states cannot run as one batch; see join().")

    def history(self, frames: Sequence[int]) -> Tensor:
        return torch.cat([memory.history(frames) for memory in self.memories])
