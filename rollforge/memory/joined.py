"""Guidance branches that run as one batch, each with its own memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rollforge.memory.base import LevelFeatures, Memory, Now, Projection, Recurrent, TextKeys
from rollforge.memory.cached import CachedMemory


class JoinedMemory(Memory):
    """The memories of several guidance branches, in a pass that runs all of them.

    The rows of the batch are those of the first branch, then those of the second. Each memory attends to its own rows,
    so that what it caches does not depend on whether its branch ran alone.

    Args:
        memories: of the branches. ``begin`` and ``end`` are called on each of them.
    """

    def __init__(self, memories: Sequence[CachedMemory]) -> None:
        self.memories = tuple(memories)
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

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
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
