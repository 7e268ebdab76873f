"""A small recurrent network for video super-resolution, about as fast as Pocket's decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

FOLD = 2
"""Most of the work is done at a grid of this many input pixels each way."""
FINE = 13
"""Channels at the grid of the input; with the three of the frame a number that processors like."""
SPREAD = 4.0
"""What centred pixels are multiplied by, for activations of about unit size."""
CAUTION = 0.3
"""What the last layer's output is multiplied by: Adam moves all weights alike, and its outputs are the smallest."""


class Residual(nn.Module):
    """Two convolutions around a skip; the second starts small."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = convolution(width, width), convolution(width, width, 0.2)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.second(functional.relu(self.first(x)))
        return x + changed


class Recurrent(nn.Module):
    """One frame and what is remembered of the frames before it, to a larger frame.

    The memory is bounded (tanh), so that a video may be of any length. A network that is not trained enlarges by
    bilinear interpolation.

    Args:
        factor: of width and height.
        width: channels of the memory.
        blocks: residual blocks.
    """

    def __init__(self, factor: int, width: int, blocks: int) -> None:
        super().__init__()
        self.factor, self.width = factor, width
        self.head = convolution(3 * FOLD**2 + width, width)
        self.body = nn.Sequential(*(Residual(width) for _ in range(blocks)))
        self.fine = convolution(width, FINE * FOLD**2)
        self.last = nn.Conv2d(FINE + 3, 3 * factor**2, 3, padding=1, padding_mode="replicate", bias=False)
        with torch.no_grad():
            self.last.weight.zero_()
            for colour in range(3):
                rows = slice(colour * factor**2, (colour + 1) * factor**2)
                self.last.weight[rows, FINE + colour] = bilinear(factor) / (SPREAD * CAUTION)

    def remember(self, frame: Tensor, memory: Tensor | None) -> Tensor:
        """The memory ``[B, width, h / 2, w / 2]`` after a frame ``[B, 3, h, w]`` in 0..1."""
        folded = functional.pixel_unshuffle(centred(frame), FOLD)
        if memory is None:
            memory = folded.new_zeros(len(folded), self.width, *folded.shape[2:])
        x = functional.relu(self.head(joined(folded, memory)))
        remembered: Tensor = torch.tanh(self.body(x))
        return remembered

    def enlarge(self, frame: Tensor, memory: Tensor) -> Tensor:
        """The frame ``[B, 3, factor * h, factor * w]``, not clamped, from the memory that includes it."""
        fine = functional.relu(functional.pixel_shuffle(self.fine(memory), FOLD))
        return functional.pixel_shuffle(self.last(joined(fine, centred(frame))) * CAUTION + 0.5, self.factor)

    def forward(self, frames: Tensor) -> Tensor:
        """A clip from its beginning: ``[B, T, 3, h, w]`` to ``[B, T, 3, H, W]``, not clamped."""
        memory, memories = None, []
        for frame in frames.unbind(1):
            memory = self.remember(frame, memory)
            memories.append(memory)
        enlarged = self.enlarge(frames.flatten(0, 1), torch.stack(memories, dim=1).flatten(0, 1))
        clip: Tensor = enlarged.unflatten(0, frames.shape[:2])  # type: ignore[no-untyped-call] # it has no types
        return clip


def joined(one: Tensor, other: Tensor) -> Tensor:
    """Channels of both, with those of a pixel next to each other, which convolutions on a CPU read sooner."""
    return torch.cat([one, other], dim=1).contiguous(memory_format=torch.channels_last)


def centred(frame: Tensor) -> Tensor:
    """Pixels of about zero mean and unit size."""
    return (frame - 0.5) * SPREAD


def convolution(inputs: int, outputs: int, gain: float = 1.0) -> nn.Conv2d:
    """A 3x3 convolution whose outputs are about as large as its inputs, times ``gain``."""
    made = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.kaiming_normal_(made.weight, nonlinearity="relu")
    nn.init.zeros_(made.bias)  # type: ignore[arg-type] # it has one
    with torch.no_grad():
        made.weight *= gain
    return made


def bilinear(factor: int) -> Tensor:
    """Bilinear interpolation as a 3x3 kernel for each pixel of a cell, ``[factor^2, 3, 3]``."""
    places = (torch.arange(factor) + 0.5) / factor - 0.5
    line = torch.stack([(-places).clamp_min(0), 1 - places.abs(), places.clamp_min(0)], dim=1)  # [factor, 3]
    return (line[:, None, :, None] * line[None, :, None, :]).flatten(0, 1)
