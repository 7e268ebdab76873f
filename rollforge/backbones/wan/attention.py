"""Projections of Wan's attention, and its norms of queries and keys.

Queries, keys and values of self-attention are one product, and the norms of queries and keys one norm, where their
weights lie one after another in memory. ``pack`` puts them there. Names in state dicts and LoRAs do not know of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from rollforge.backbones.wan.layers import RMSNorm


class Attention(nn.Module):
    """Projections and q/k-norm; the memory decides what is attended to."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(width, eps), RMSNorm(width, eps)

    def split(self, x: Tensor) -> Tensor:
        """``[B, L, width]`` to ``[B, L, heads, head_dim]``."""
        return x.unflatten(-1, (self.heads, -1))

    def query(self, x: Tensor) -> Tensor:
        return self.split(self.norm_q(self.q(x)))

    def key_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.split(self.norm_k(self.k(x))), self.split(self.v(x))

    def query_key_value(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All three of the same tokens ``[B, L, width]``: as one product, but in compiled and training passes."""
        one = None if torch.compiler.is_compiling() or torch.is_grad_enabled() else self._as_one()
        if one is None:
            return self.query(x), *self.key_value(x)
        weight, bias, norm = one
        width = x.shape[-1]
        made = functional.linear(x, weight.flatten(0, 1), bias.flatten()).unflatten(-1, (3, width))  # [B, L, 3, width]
        normed = functional.rms_norm(made[..., :2, :], (width,), None, self.norm_q.eps) * norm.to(made.dtype)
        q, k, v = *normed.unbind(-2), made[..., 2, :]
        return self.split(q), self.split(k), self.split(v)

    def pack(self) -> None:
        """Puts the weights of queries, keys and values one after another in memory, and so their biases and norms."""
        for group in self._groups():
            if _plain(group) and _in_a_row(group) is None:
                for parameter, part in zip(group, torch.stack([each.data for each in group]), strict=True):
                    parameter.data = part

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # .to(device) and the like, which move parameters one by one
        self.pack()
        return self

    def _groups(self) -> list[list[Any]]:
        linears = self.q, self.k, self.v
        return [
            [each.weight for each in linears],
            [each.bias for each in linears],
            [self.norm_q.weight, self.norm_k.weight],
        ]

    def _as_one(self) -> list[Tensor] | None:
        """Weights ``[3, width, width]``, biases ``[3, width]``, norms ``[2, width]``; None where they do not lie so."""
        if any(type(each) is not nn.Linear or each._forward_hooks for each in (self.q, self.k, self.v)):
            return None  # such as layers with a LoRA next to their weights
        groups = self._groups()
        joint = [row for group in groups if _plain(group) and (row := _in_a_row(group)) is not None]
        return joint if len(joint) == len(groups) else None


def _plain(group: list[Any]) -> bool:
    """Whether these are parameters with numbers of their own: neither sharded nor quantised nor on the meta device."""
    first = group[0]
    return all(
        type(each) is nn.Parameter and not each.is_meta and each.shape == first.shape and each.dtype == first.dtype
        for each in group
    )


def _in_a_row(group: list[Any]) -> Tensor | None:
    """The tensors as one, ``[count, ...]``, without a copy; None where they do not lie one after another."""
    first, size = group[0], group[0].nbytes
    start = first.data_ptr()
    if any(each.data_ptr() != start + n * size or not each.is_contiguous() for n, each in enumerate(group)):
        return None
    if first.untyped_storage().nbytes() - first.storage_offset() * first.itemsize < len(group) * size:
        return None  # neighbours by chance
    return first.as_strided((len(group), *first.shape), (first.numel(), *first.stride()))
