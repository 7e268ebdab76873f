"""What one layer reads in one pass. It is made before the network runs, so that inside the network there are tensors
only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rollforge.memory.bias import joined
from rollforge.memory.slots import Piece, View
from rollforge.positions.base import Placement
from rollforge.spec import ModelSpec


@dataclass
class Reading:
    """One layer of one pass.

    Args:
        placement: of the frames of the pass.
        keys: rotated keys, ``[B, rows, heads, head_dim]``: room for those of the pass, then those of the slots; without
            ``room`` those of the slots alone. None where nothing is read.
        values: of them.
        room: whether the keys of the pass are written into ``keys``. Under gradients they are concatenated.
        own: the bias among the frames of the pass, ``[L, L]``; None where each attends to all.
        context: the bias of the slots in each branch that the layer reads; None where it is 0.
        tokens: of the pass.
        following: what a second block of the same pass reads.
    """

    placement: Placement
    keys: Tensor | None
    values: Tensor | None
    room: bool
    own: Tensor | None
    context: list[Tensor | None]
    tokens: int
    following: Following | None = None

    def together(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Rotated keys and the values of the pass, and those of the slots after them."""
        if self.keys is None or self.values is None:
            return k, v
        if not self.room:
            return torch.cat([k, self.keys.to(k)], 1), torch.cat([v, self.values.to(v)], 1)
        self.keys[:, : k.shape[1]], self.values[:, : v.shape[1]] = k, v
        return self.keys, self.values

    def biases(self, bias: Tensor | None, rows: int, columns: int) -> list[Tensor | None]:
        """What is added to the logits in each branch.

        Args:
            bias: what the network adds among the tokens of the pass.
            rows: tokens of the pass.
            columns: tokens of the pass and of the slots.
        """
        if self.own is not None:
            bias = self.own if bias is None else bias + self.own
        return [joined(bias, each, rows, columns - rows) for each in self.context]


@dataclass
class Following:
    """What the second of two blocks reads in one layer of a pass that commits the first.

    It reads the keys that the pass computes for the first. They go into their slots inside the network, after the first
    block has attended and before the second does, and so does what its plan moves to another time index.

    Args:
        tokens: those of the first block, with which the pass begins.
        fresh: rows of the buffer for keys of the first block.
        sources: the tokens of the first block that go there.
        placement: of these.
        moved: rows of the buffer for other keys and values; None where there are none.
        pieces: these keys, rotated, and values.
        reading: what the second block reads.
    """

    tokens: int
    fresh: Tensor
    sources: Tensor
    placement: Placement
    moved: Tensor | None
    pieces: Piece | None
    reading: Reading

    def fill(self, turn: Callable[[Tensor, Placement], Tensor], k: Tensor, v: Tensor) -> None:
        """Writes the slots, given the keys and values of the first block."""
        keys, values = self.reading.keys, self.reading.values
        assert keys is not None
        assert values is not None
        keys.index_copy_(1, self.fresh, turn(k.index_select(1, self.sources), self.placement))
        values.index_copy_(1, self.fresh, v.index_select(1, self.sources))
        if self.moved is not None and self.pieces is not None:
            keys.index_copy_(1, self.moved, self.pieces[0])
            values.index_copy_(1, self.moved, self.pieces[1])

    def of_all(self, others: Sequence[Following], buffer: View, frames: int, slots: int) -> Following:
        """The same for several memories whose buffers are parts of one."""
        keys, values = buffer.read(frames, slots)
        pieces = [each.pieces for each in (self, *others) if each.pieces is not None]
        together = (torch.cat([k for k, _ in pieces]), torch.cat([v for _, v in pieces])) if pieces else None
        return replace(self, pieces=together, reading=replace(self.reading, keys=keys, values=values))


def check_layer(spec: ModelSpec, layer: int) -> None:
    """Raises ``ValueError`` for a layer that the spec does not have. Runs inside what is compiled."""
    if not 0 <= layer < spec.layers:
        raise ValueError(f"memory.attend is called for layer {layer}, and the spec has {spec.layers} layers")


def check_attended(spec: ModelSpec, layer: int, reading: Reading, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raises ``ValueError`` for what a network may not attend with. Runs inside what is compiled.

    Of two blocks in one pass the queries of the first may be left out.
    """
    later = reading.following.reading.tokens if reading.following else 0
    tokens, where = reading.tokens + later, f"in layer {layer}"
    heads, channels = spec.heads, spec.head_dim
    if q.dim() != 4 or q.shape[2:] != (heads, channels) or q.shape[1] not in (tokens, later or tokens):
        raise ValueError(
            f"memory.attend got queries of shape {list(q.shape)} {where}, expected [B, {tokens}, {heads}, {channels}]"
        )
    if k.shape != v.shape or k.shape[:2] != (len(q), tokens) or k.shape[3:] != q.shape[3:] or heads % k.shape[2]:
        raise ValueError(
            f"memory.attend got keys and values of shape {list(k.shape)} and {list(v.shape)} {where}, expected both "
            f"as [B, {tokens}, {heads}, {channels}], or with fewer heads that divide these"
        )
