"""The buffer of one layer: the frames of the pass, then a slot for each frame that a plan reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

Entry = tuple[int, int]
"""A content frame and the time index it is read at."""
Piece = tuple[Tensor, Tensor]
"""Keys and values of one frame, ``[B, tokens, heads, head_dim]`` each."""


@dataclass(frozen=True)
class Changes:
    """Slots that get other frames, and which."""

    slots: tuple[int, ...]
    entries: tuple[Entry, ...]

    def of(self, frames: range) -> Changes:
        """Those that get one of these frames."""
        return self._only([entry[0] in frames for entry in self.entries])

    def but(self, frames: range) -> Changes:
        """Those that get none of these frames."""
        return self._only([entry[0] not in frames for entry in self.entries])

    def _only(self, kept: Sequence[bool]) -> Changes:
        slots = tuple(slot for slot, keep in zip(self.slots, kept, strict=True) if keep)
        return Changes(slots, tuple(entry for entry, keep in zip(self.entries, kept, strict=True) if keep))


@dataclass(eq=False)
class View:
    """Rotated keys, and values: ``[B, (own + slots) * tokens, heads, head_dim]`` each.

    The frames of a pass end where the slots begin, so that they and the first slots lie side by side.
    """

    keys: Tensor
    values: Tensor
    own: int  # frames of the longest pass so far
    tokens: int
    slots: list[Entry | None]
    place: tuple[View, int] | None = None  # the buffer whose rows these are, and which of its parts

    def __post_init__(self) -> None:
        self._shown, self._pair = (-1, -1), (self.keys, self.values)

    @classmethod
    def blank(cls, k: Tensor, v: Tensor, own: int, slots: int, tokens: int, parts: int = 1) -> View:
        """An empty buffer for ``parts`` times as many rows of a batch as these keys and values have."""
        rows = (own + slots) * tokens
        keys, values = (x.new_zeros(parts * x.shape[0], rows, *x.shape[2:]) for x in (k, v))
        return cls(keys, values, own, tokens, [None] * slots)

    def part(self, n: int, parts: int) -> View:
        """The rows of part ``n`` of ``parts``, with slots of their own."""
        keys, values = self.keys.chunk(parts)[n], self.values.chunk(parts)[n]
        return View(keys, values, self.own, self.tokens, [None] * len(self.slots), (self, n))

    def take(self, other: View) -> View:
        """Copies what is in the slots of a smaller buffer."""
        before, after = other.own * self.tokens, self.own * self.tokens
        self.keys[:, after:], self.values[:, after:] = other.keys[:, before:], other.values[:, before:]
        self.slots = other.slots
        return self

    def read(self, own: int, slots: int) -> Piece:
        """Room for ``own`` frames of a pass, then the first ``slots``; the same tensors while both stay the same."""
        if (own, slots) != self._shown:
            rows = slice((self.own - own) * self.tokens, (self.own + slots) * self.tokens)
            self._shown, self._pair = (own, slots), (self.keys[:, rows], self.values[:, rows])
        return self._pair

    def fill(self, slots: Sequence[int], piece: Piece) -> None:
        """Writes the frames of ``piece`` to slots, in this order."""
        done = 0
        for first, count in runs(slots):
            rows, source = self._rows(first, count), slice(done * self.tokens, (done + count) * self.tokens)
            self.keys[:, rows], self.values[:, rows] = (x[:, source] for x in piece)
            done += count

    def copy_of(self, entry: Entry) -> Piece:
        """A frame's keys and values, apart from the buffer."""
        rows = self._rows(self.slots.index(entry))
        return self.keys[:, rows].clone(), self.values[:, rows].clone()

    def forget(self, frames: set[int]) -> None:
        """Empties the slots of these frames."""
        self.slots = [None if entry and entry[0] in frames else entry for entry in self.slots]

    def empty(self, slots: Sequence[int]) -> None:
        """Marks slots as empty."""
        for slot in slots:
            self.slots[slot] = None

    def _rows(self, slot: int, count: int = 1) -> slice:
        start = (self.own + slot) * self.tokens
        return slice(start, start + count * self.tokens)


class JointBuffers:
    """Makes the buffers of several memories as rows of the same tensors, so that one call can attend to all of them.

    Args:
        parts: the memories.
    """

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self._views: dict[int, View] = {}  # by layer

    def blank(self, part: int, layer: int, k: Tensor, v: Tensor, own: int, slots: int, tokens: int) -> View:
        """As ``View.blank``, for memory number ``part``."""
        whole = self._views.get(layer)
        if whole is None or whole.own != own:
            whole = self._views[layer] = View.blank(k, v, own, slots, tokens, self.parts)
        return whole.part(part, self.parts)

    def whole(self, layer: int, views: Sequence[View]) -> View | None:
        """The buffer of all memories, if their views of a layer are its parts and hold the same."""
        found = self._views.get(layer)
        alike = all(view.place == (found, n) and view.slots == views[0].slots for n, view in enumerate(views))
        return found if alike else None


def runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending numbers as runs of successive ones: the first of each, and how many."""
    found: list[tuple[int, int]] = []
    for n in numbers:
        if found and n == sum(found[-1]):
            found[-1] = found[-1][0], found[-1][1] + 1
        else:
            found.append((n, 1))
    return found


def arrange(slots: Sequence[Entry], entries: Sequence[Entry]) -> list[int]:
    """For each of the first slots the number of the entry that it gets: those already in place stay there."""
    waiting: dict[Entry, list[int]] = {}
    for n in reversed(range(len(entries))):
        waiting.setdefault(entries[n], []).append(n)
    placed = [waiting[entry].pop() if waiting.get(entry) else None for entry in slots[: len(entries)]]
    placed += [None] * (len(entries) - len(placed))
    fresh = iter(sorted(n for left in waiting.values() for n in left))
    return [next(fresh) if n is None else n for n in placed]
