"""Which tokens of the middle are kept: those that the latest queries agree with most, in each layer and sample."""

from __future__ import annotations

import torch
from torch import Tensor


def scores(queries: Tensor, keys: Tensor) -> Tensor:
    """Sums of queries . keys over all queries and heads, ``[B, n]``.

    Args:
        queries: rotated, ``[B, frames, heads, head_dim]``, means over the tokens of a frame, which rank keys as their
            sums do.
        keys: rotated, ``[B, n, heads, head_dim]``; they may have fewer heads, each shared by as many of the queries in
            a row.
    """
    together = queries.float().sum(1).unflatten(1, (keys.shape[2], -1)).sum(2)
    return torch.einsum("bhd,bnhd->bn", together, keys.float())


def top(scored: Tensor, count: int) -> Tensor:
    """The numbers of the ``count`` largest of ``[B, n]``, in rising order."""
    return scored.topk(count).indices.sort().values


def taken(x: Tensor, index: Tensor) -> Tensor:
    """Tokens ``[B, count, heads, head_dim]`` of ``[B, n, heads, head_dim]``."""
    return x.gather(1, index[:, :, None, None].expand(-1, -1, *x.shape[2:]))
