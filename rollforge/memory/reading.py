"""What one layer reads in one pass. It is made before the network runs, so that inside the network there are tensors
only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rollforge.memory.bias import joined
from rollforge.positions.base import Placement


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
    """

    placement: Placement
    keys: Tensor | None
    values: Tensor | None
    room: bool
    own: Tensor | None
    context: list[Tensor | None]

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
