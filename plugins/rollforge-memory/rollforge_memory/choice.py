"""Choices that each sample makes for itself."""

from __future__ import annotations

import torch
from torch import Tensor


def chosen_of(x: Tensor, index: Tensor) -> Tensor:
    """Of ``[B, n, ...]`` the rows ``[B, m]`` of each sample, ``[B, m, ...]``."""
    return x[torch.arange(len(x), device=x.device)[:, None], index.to(x.device)]


def shared_heads(x: Tensor, heads: int) -> Tensor:
    """Means of ``[B, more heads, head_dim]`` over the heads that share one of ``heads``."""
    return x.unflatten(1, (heads, -1)).mean(dim=2)
