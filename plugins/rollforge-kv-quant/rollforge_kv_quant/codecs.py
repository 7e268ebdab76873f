"""Keys and values in few bits: a small number for each, and a scale and an offset for each group of them.

A group is one channel of one head over some neighbouring tokens of a frame. Channels of keys differ in mean and size,
and change little from token to token: on Pocket, the error of keys in 4 bits is a third of what groups of 16 channels
give. Scales and offsets are in the dtype of the keys, which says what ``decode`` restores.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

import torch
from torch import Tensor

from rollforge.memory import KVCodec
from rollforge.ranges import Range

Group = Annotated[int, Range(2, 65_536, step=2)]
Kept = tuple[int, tuple[Tensor, ...], tuple[Tensor, ...]]
"""How many tokens there are, and what is kept of the keys and of the values."""

FP8 = torch.float8_e4m3fn


class QuantizedKVCodec(KVCodec):
    """Quantizes keys and values in groups of tokens.

    A subclass says how groups ``[B, groups, group, heads, head_dim]`` become tensors, and back.

    Args:
        group: tokens that share a scale and an offset; a frame with fewer tokens is one group.
    """

    def __init__(self, group: Group) -> None:
        self.group = group

    @abstractmethod
    def pack(self, groups: Tensor) -> tuple[Tensor, ...]:
        """What is kept of the groups. Runs on the meta device too, so that the memory budget can count it."""

    @abstractmethod
    def unpack(self, *kept: Tensor) -> Tensor:
        """The groups again."""

    def encode(self, k: Tensor, v: Tensor) -> Kept:
        return k.shape[1], self.pack(grouped(k, self.group)), self.pack(grouped(v, self.group))

    def decode(self, kept: Kept) -> tuple[Tensor, Tensor]:
        tokens, k, v = kept
        return self.unpack(*k).flatten(1, 2)[:, :tokens], self.unpack(*v).flatten(1, 2)[:, :tokens]


class Int8KVCodec(QuantizedKVCodec):
    """Keeps keys and values as 8-bit integers: about half the bytes of bfloat16.

    Args:
        group: tokens that share a scale and an offset; a frame with fewer tokens is one group.
    """

    tolerance = 0.01

    def __init__(self, group: Group = 64) -> None:
        super().__init__(group)

    def pack(self, groups: Tensor) -> tuple[Tensor, ...]:
        return to_integers(groups, 255)

    def unpack(self, *kept: Tensor) -> Tensor:
        return from_codes(*kept)


class Int4KVCodec(QuantizedKVCodec):
    """Keeps keys and values as 4-bit integers, two to a byte: less than a third of the bytes of bfloat16.

    Args:
        group: tokens that share a scale and an offset; a frame with fewer tokens is one group.
    """

    tolerance = 0.1

    def __init__(self, group: Group = 32) -> None:
        super().__init__(group)

    def pack(self, groups: Tensor) -> tuple[Tensor, ...]:
        codes, scale, offset = to_integers(groups, 15)
        return codes[:, :, 0::2] | codes[:, :, 1::2] << 4, scale, offset

    def unpack(self, *kept: Tensor) -> Tensor:
        pairs, scale, offset = kept
        return from_codes(torch.stack([pairs & 15, pairs >> 4], dim=3).flatten(2, 3), scale, offset)


class FP8KVCodec(QuantizedKVCodec):
    """Keeps keys and values as 8-bit floats (e4m3, with 3 bits of mantissa): about half the bytes of bfloat16.

    Args:
        group: tokens that share a scale and an offset; a frame with fewer tokens is one group.
    """

    tolerance = 0.04

    def __init__(self, group: Group = 64) -> None:
        super().__init__(group)

    def pack(self, groups: Tensor) -> tuple[Tensor, ...]:
        most = torch.finfo(FP8).max
        exact = groups.to(precise(groups))
        least, largest = exact.aminmax(dim=2, keepdim=True)
        offset = (least / 2 + largest / 2).to(groups.dtype)
        around = exact - offset
        scale = above_zero(around.abs().amax(dim=2, keepdim=True) / most).to(groups.dtype)
        small = (around / scale).clamp(-most, most).to(FP8)
        return small.view(torch.uint8), scale, offset  # which every operator and file format knows

    def unpack(self, *kept: Tensor) -> Tensor:
        codes, scale, offset = kept
        return from_codes(codes.view(FP8).to(precise(scale)), scale, offset)


def grouped(x: Tensor, group: int) -> Tensor:
    """Keys or values ``[B, tokens, heads, head_dim]`` as ``[B, groups, group, heads, head_dim]``.

    Groups are of even length; the last one is filled up with the last token.
    """
    group = min(group, x.shape[1] + x.shape[1] % 2)
    missing = -x.shape[1] % group
    filled = torch.cat([x, x[:, -1:].expand(-1, missing, -1, -1)], dim=1)
    return filled.unflatten(1, (-1, group))


def to_integers(groups: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Integers from 0 to ``most`` with the scale and the offset of each group, in the dtype of the groups."""
    exact = groups.to(precise(groups))
    least, largest = exact.aminmax(dim=2, keepdim=True)
    offset = least.to(groups.dtype)
    scale = above_zero((largest - offset) / most).to(groups.dtype)
    codes = ((exact - offset) / scale).round_().clamp_(0, most)
    return codes.to(torch.uint8), scale, offset


def from_codes(codes: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """The groups again, in the dtype of scale and offset."""
    return (codes * scale.to(precise(scale)) + offset).to(scale.dtype)


def above_zero(scale: Tensor) -> Tensor:
    """A scale by which can be divided, where all numbers of a group are equal."""
    return torch.where(scale > 0, scale, 1.0)


def precise(x: Tensor) -> torch.dtype:
    """What to compute in."""
    return torch.promote_types(x.dtype, torch.float32)
