"""Rotary position embedding in (time, height, width), as Wan splits it.

Of ``c = head_dim / 2`` channel pairs the time axis takes ``c - 2 * (c // 3)``, height and width ``c // 3`` each. Angles
are float64 products of position and frequency, cast once, so positions far beyond any table stay exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rollforge.devices import sent
from rollforge.ranges import Checked, Positive
from rollforge.spec import ModelSpec, Step


class Rotation(NamedTuple):
    """Cosines and sines ``[tokens, heads or 1, head_dim / 2]``."""

    cos: Tensor
    sin: Tensor


def split_pairs(head_dim: int) -> tuple[int, int, int]:
    """Channel pairs of the time, height and width axes."""
    pairs = head_dim // 2
    return pairs - 2 * (pairs // 3), pairs // 3, pairs // 3


def axis_frequencies(pairs: int, theta: float) -> Tensor:
    """Radians per position, float64 ``[pairs]``: ``theta ** (-2j / axis_dim)``."""
    return theta ** -(torch.arange(pairs, dtype=torch.float64) / pairs)


class Rope(Checked):
    """Rotary embedding with Wan's temporal frequencies.

    Args:
        theta: base of the geometric series of frequencies, on all three axes.
    """

    constant: ClassVar[bool] = True
    """Whether the temporal frequencies are the same at every step. A transform that overrides ``temporal`` is taken to
    change them, and makes the memory keep and turn every key, unless it says True."""

    def __init__(self, theta: Positive = 10000.0) -> None:
        self.theta = theta

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "temporal" in cls.__dict__ and "constant" not in cls.__dict__:
            cls.constant = False

    def temporal(self, spec: ModelSpec, step: Step | None = None) -> Tensor:
        """Temporal frequencies in radians per frame, float64, ``[pairs]`` or ``[heads, pairs]``.

        Transforms override this; ``step`` is None in training passes.
        """
        return axis_frequencies(split_pairs(spec.head_dim)[0], self.theta)

    def rotation(
        self, spec: ModelSpec, times: Sequence[float], device: torch.device, step: Step | None = None
    ) -> Rotation:
        """The rotation of all tokens of frames at the time indices ``times``."""
        _, high, wide = split_pairs(spec.head_dim)
        rows, columns = spec.grid
        frequency = self.temporal(spec, step)
        frequency = frequency if frequency.ndim == 2 else frequency[None]
        heads, frames = len(frequency), len(times)
        time = torch.tensor(times, dtype=torch.float64)[:, None, None] * frequency  # [F, heads, pairs]
        height = torch.arange(rows, dtype=torch.float64)[:, None] * axis_frequencies(high, self.theta)
        width = torch.arange(columns, dtype=torch.float64)[:, None] * axis_frequencies(wide, self.theta)
        shape = (frames, rows, columns, heads, -1)
        angle = torch.cat(
            [
                time[:, None, None].expand(shape),
                height[None, :, None, None].expand(shape),
                width[None, None, :, None].expand(shape),
            ],
            dim=-1,
        ).flatten(0, 2)
        return Rotation(sent(angle.cos().float(), device), sent(angle.sin().float(), device))


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotates neighbouring channel pairs of ``x`` ``[B, tokens, heads, head_dim]``, in float32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rotation
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)
