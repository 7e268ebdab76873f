"""The buffer of one layer: the frames of the pass, then a slot for each frame that a plan reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

Entry = tuple[int, int]
"""A content frame and the time index it is read at."""
Piece = tuple[Tensor, Tensor]
"""Keys and values of one frame, ``[B, tokens, heads, head_dim]`` each."""


@dataclass
class View:
    """Rotated keys, and values: ``[B, (own + slots) * tokens, heads, head_dim]`` each.

    The frames of a pass end where the slots begin, so that they and the first slots lie side by side.
    """

    keys: Tensor
    values: Tensor
    own: int  # frames of the longest pass so far
    tokens: int
    slots: list[Entry | None]

    def __post_init__(self) -> None:
        self._shown, self._pair = (-1, -1), (self.keys, self.values)

    @classmethod
    def blank(cls, k: Tensor, v: Tensor, own: int, slots: int, tokens: int) -> View:
        """An empty buffer for keys and values like these."""
        rows = (own + slots) * tokens
        keys, values = (x.new_zeros(x.shape[0], rows, *x.shape[2:]) for x in (k, v))
        return cls(keys, values, own, tokens, [None] * slots)

    def widened(self, own: int) -> View:
        """A buffer for passes of ``own`` frames, with the same slots; this one if it is large enough."""
        if own <= self.own:
            return self
        wider = self.blank(self.keys, self.values, own, len(self.slots), self.tokens)
        before, after = self.own * self.tokens, own * self.tokens
        wider.keys[:, after:], wider.values[:, after:] = self.keys[:, before:], self.values[:, before:]
        wider.slots = self.slots
        return wider

    def read(self, own: int, slots: int) -> Piece:
        """Room for ``own`` frames of a pass, then the first ``slots``; the same tensors while both stay the same."""
        if (own, slots) != self._shown:
            rows = slice((self.own - own) * self.tokens, (self.own + slots) * self.tokens)
            self._shown, self._pair = (own, slots), (self.keys[:, rows], self.values[:, rows])
        return self._pair

    def fill(self, slot: int, entry: Entry, piece: Piece) -> None:
        """Writes a frame to a slot."""
        rows = self._rows(slot)
        self.keys[:, rows], self.values[:, rows] = piece
        self.slots[slot] = entry

    def copy_of(self, entry: Entry) -> Piece:
        """A frame's keys and values, apart from the buffer."""
        rows = self._rows(self.slots.index(entry))
        return self.keys[:, rows].clone(), self.values[:, rows].clone()

    def forget(self, frames: set[int]) -> None:
        """Empties the slots of these frames."""
        self.slots = [None if entry and entry[0] in frames else entry for entry in self.slots]

    def _rows(self, slot: int) -> slice:
        start = (self.own + slot) * self.tokens
        return slice(start, start + self.tokens)


def arrange(slots: Sequence[Entry], entries: Sequence[Entry]) -> list[int]:
    """For each of the first slots the number of the entry that it gets: those already in place stay there."""
    waiting: dict[Entry, list[int]] = {}
    for n in reversed(range(len(entries))):
        waiting.setdefault(entries[n], []).append(n)
    placed = [waiting[entry].pop() if waiting.get(entry) else None for entry in slots[: len(entries)]]
    placed += [None] * (len(entries) - len(placed))
    fresh = iter(sorted(n for left in waiting.values() for n in left))
    return [next(fresh) if n is None else n for n in placed]
