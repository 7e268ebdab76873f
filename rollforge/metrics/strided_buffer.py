"""Sequences of any length in bounded memory."""

from __future__ import annotations

import torch
from torch import Tensor

from rollforge.state import Stateful


class StridedBuffer(Stateful):
    """Every ``stride``-th row of a sequence, at most ``capacity``: when full, every other is dropped.

    Exact while the sequence is no longer than ``capacity``; then between half full and full, evenly spaced from its
    beginning.
    """

    def __init__(self, capacity: int, width: int) -> None:
        self.rows = torch.zeros(capacity + capacity % 2, width)
        self.stride, self.seen = 1, 0

    @property
    def kept(self) -> Tensor:
        """The rows that are there, oldest first."""
        return self.rows[: -(-self.seen // self.stride)]

    def add(self, row: Tensor) -> None:
        """Takes the next row ``[width]``."""
        if self.seen == len(self.rows) * self.stride:
            half = len(self.rows) // 2
            self.rows[:half] = self.halve(self.rows.view(half, 2, -1))
            self.stride *= 2
        slot, rest = divmod(self.seen, self.stride)
        self.rows[slot] = self.merge(self.rows[slot], row) if rest else row
        self.seen += 1

    def halve(self, pairs: Tensor) -> Tensor:
        """One row for each pair ``[n, 2, width]``."""
        return pairs[:, 0].clone()

    def merge(self, kept: Tensor, row: Tensor) -> Tensor:
        """What is kept of a row that falls between two places."""
        return kept


class MinBuffer(StridedBuffer):
    """The lowest of every ``stride`` rows, so that no low of the sequence is lost."""

    def halve(self, pairs: Tensor) -> Tensor:
        return pairs.amin(dim=1)

    def merge(self, kept: Tensor, row: Tensor) -> Tensor:
        return torch.minimum(kept, row)
