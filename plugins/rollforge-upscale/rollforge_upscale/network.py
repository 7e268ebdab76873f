"""A small recurrent network for video super-resolution, about as fast as Pocket's decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

FOLD = 2
"""Most of the work is done at a grid of this many input pixels each way."""
FINE = 13
"""Channels at the grid of the input; with the three of the frame a number that processors like."""


class Residual(nn.Module):
    """Two convolutions around a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.second(functional.relu(self.first(x)))
        return x + changed


class Recurrent(nn.Module):
    """One frame and what is remembered of the frames before it, to a larger frame.

    The memory is bounded (tanh), so that a video may be of any length. The last layer starts at zero: a network that
    is not trained repeats pixels.

    Args:
        factor: of width and height.
        width: channels of the memory.
        blocks: residual blocks.
    """

    def __init__(self, factor: int, width: int, blocks: int) -> None:
        super().__init__()
        self.factor, self.width = factor, width
        self.head = nn.Conv2d(3 * FOLD**2 + width, width, 3, padding=1)
        self.body = nn.Sequential(*(Residual(width) for _ in range(blocks)))
        self.spread = nn.Conv2d(width, FINE * FOLD**2, 3, padding=1)
        self.tail = nn.Conv2d(FINE + 3, 3 * factor**2, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)  # type: ignore[arg-type] # it has one

    def remember(self, frame: Tensor, memory: Tensor | None) -> Tensor:
        """The memory ``[B, width, h / 2, w / 2]`` after a frame ``[B, 3, h, w]`` in 0..1."""
        folded = functional.pixel_unshuffle(frame - 0.5, FOLD)
        if memory is None:
            memory = folded.new_zeros(len(folded), self.width, *folded.shape[2:])
        x = functional.relu(self.head(torch.cat([folded, memory], dim=1)))
        remembered: Tensor = torch.tanh(self.body(x))
        return remembered

    def enlarge(self, frame: Tensor, memory: Tensor) -> Tensor:
        """The frame ``[B, 3, factor * h, factor * w]``, not clamped, from the memory that includes it."""
        fine = functional.relu(functional.pixel_shuffle(self.spread(memory), FOLD))
        detail = self.tail(torch.cat([fine, frame - 0.5], dim=1))
        return functional.pixel_shuffle(detail + frame.repeat_interleave(self.factor**2, dim=1), self.factor)

    def forward(self, frames: Tensor) -> Tensor:
        """A clip from its beginning: ``[B, T, 3, h, w]`` to ``[B, T, 3, H, W]``, not clamped."""
        memory, memories = None, []
        for frame in frames.unbind(1):
            memory = self.remember(frame, memory)
            memories.append(memory)
        enlarged = self.enlarge(frames.flatten(0, 1), torch.stack(memories, dim=1).flatten(0, 1))
        return enlarged.unflatten(0, frames.shape[:2])
