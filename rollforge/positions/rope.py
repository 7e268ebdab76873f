"""Rotary position embedding in (time, height, width), as Wan splits it.

Of ``c = head_dim / 2`` channel pairs the time axis takes ``c - 2 * (c // 3)``, height and width ``c // 3`` each. Angles
are float64 products of position and frequency, cast once, so positions far beyond any table stay exact.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rollforge.devices import sent
from rollforge.errors import UserError
from rollforge.positions.base import Positions
from rollforge.ranges import Positive
from rollforge.spec import ModelSpec, ReadPlan, Step

Angles = NDArray[np.float32]


class Rotation(NamedTuple):
    """Cosines and sines ``[tokens, heads or 1, head_dim / 2]``."""

    cos: Tensor
    sin: Tensor


def split_pairs(head_dim: int) -> tuple[int, int, int]:
    """Channel pairs of the time, height and width axes. Raises ``UserError`` for an odd number of channels."""
    if head_dim % 2:
        raise UserError(
            f"The backbone's head_dim is {head_dim}, and rotary positions need an even number; choose other positions, "
            "such as NoPositions."
        )
    pairs = head_dim // 2
    return pairs - 2 * (pairs // 3), pairs // 3, pairs // 3


def axis_frequencies(pairs: int, theta: float) -> Tensor:
    """Radians per position, float64 ``[pairs]``: ``theta ** (-2j / axis_dim)``."""
    return theta ** -(torch.arange(pairs, dtype=torch.float64) / pairs)


class Rope(Positions):
    """Rotary embedding with Wan's temporal frequencies.

    A transform overrides ``temporal`` where the frequencies depend on the step alone, ``frequencies`` where they depend
    on the plan too. Where it does, keys are rotated again when the frequencies change.

    Args:
        theta: base of the geometric series of frequencies, on all three axes.
    """

    def __init__(self, theta: Positive = 10000.0) -> None:
        self.theta = theta

    def check_spec(self, spec: ModelSpec) -> None:
        split_pairs(spec.head_dim)

    def temporal(self, spec: ModelSpec, step: Step | None = None) -> Tensor:
        """Temporal frequencies in radians per frame, float64, ``[pairs]`` or ``[heads, pairs]``.

        ``step`` is None in training passes. Where queries share keys, ``heads`` are those of the keys.
        """
        return axis_frequencies(split_pairs(spec.head_dim)[0], self.theta)

    def frequencies(self, spec: ModelSpec, step: Step | None, plan: ReadPlan | None) -> Tensor:
        """The same for one plan. Default: ``temporal``."""
        return self.temporal(spec, step)

    def key(self, spec: ModelSpec, step: Step, plan: ReadPlan) -> Hashable:
        kind = type(self)
        if kind.place is not Rope.place or kind.rotation is not Rope.rotation:
            return super().key(spec, step, plan)  # a transform that says nothing may depend on anything
        if kind.temporal is Rope.temporal and kind.frequencies is Rope.frequencies:
            return None
        frequencies = self.frequencies(spec, step, plan)
        return (*frequencies.shape, *frequencies.flatten().tolist())

    def place(
        self, spec: ModelSpec, times: Sequence[float], step: Step | None = None, plan: ReadPlan | None = None
    ) -> Tensor:
        return torch.stack(self.rotation(spec, times, torch.device("cpu"), step, plan), dim=-1)

    def turn(self, x: Tensor, placement: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        return rotate(x, placement)

    def heads(self, placement: Tensor, part: int, parts: int) -> Tensor:
        return placement if placement.shape[-3] == 1 else placement.chunk(parts, dim=-3)[part]

    def rotation(
        self,
        spec: ModelSpec,
        times: Sequence[float],
        device: torch.device,
        step: Step | None = None,
        plan: ReadPlan | None = None,
    ) -> Rotation:
        """The rotation of all tokens of frames at the time indices ``times``."""
        rows, columns = spec.grid
        frequency = self.frequencies(spec, step, plan)
        frequency = frequency if frequency.ndim == 2 else frequency[None]
        time = torch.tensor(times, dtype=torch.float64)[:, None, None] * frequency  # [F, heads, pairs]
        shape = (len(times), rows, columns, len(frequency), -1)
        within = _within_a_frame(spec.head_dim, rows, columns, self.theta)
        turns = (
            torch.cat([turn.float()[:, None, None].expand(shape), torch.from_numpy(own).expand(shape)], dim=-1)
            for turn, own in zip((time.cos(), time.sin()), within, strict=True)
        )
        return Rotation(*(sent(turn.flatten(0, 2), device) for turn in turns))


@lru_cache(maxsize=32)
def _within_a_frame(head_dim: int, rows: int, columns: int, theta: float) -> tuple[Angles, Angles]:
    """Cosines and sines of height and width, which every frame shares, ``[rows, columns, 1, pairs]``."""
    axes = zip((np.arange(rows)[:, None, None], np.arange(columns)[:, None]), split_pairs(head_dim)[1:], strict=True)
    angles = [places * theta ** -(np.arange(pairs) / pairs) for places, pairs in axes]
    angle = np.concatenate([np.broadcast_to(each, (rows, columns, each.shape[-1])) for each in angles], axis=-1)
    return np.cos(angle)[:, :, None].astype(np.float32), np.sin(angle)[:, :, None].astype(np.float32)


def rotate(x: Tensor, rotation: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """Rotates neighbouring channel pairs of ``x`` ``[B, tokens, heads, head_dim]``, in float32.

    One product of complex numbers; written out in real ones where it is compiled, since compilers fuse only those.

    Args:
        x: queries or keys.
        rotation: cosines and sines, ``[tokens, heads, head_dim / 2]`` each, or stacked in a last dimension. One of
            fewer heads is shared by as many heads of ``x`` in a row.
    """
    turns = rotation if isinstance(rotation, Tensor) else torch.stack(tuple(rotation), dim=-1)
    turns = _for_heads(turns, x.shape[2])
    pairs = x.float().unflatten(-1, (-1, 2))
    if not torch.compiler.is_compiling():
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turns))
        return turned.flatten(-2).to(x.dtype)
    (even, odd), (cos, sin) = pairs.unbind(-1), turns.unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


def _for_heads(turns: Tensor, heads: int) -> Tensor:
    """``[tokens, heads or fewer, pairs, 2]``, or so for each row of a batch."""
    own = turns.shape[-3]
    return turns if own in (1, heads) else turns.repeat_interleave(heads // own, dim=-3)
