"""Scaled dot-product attention in the layout the backbones use."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries ``[B, L, heads, head_dim]`` on keys and values ``[B, S, heads, head_dim]``.

    On a CPU in float32, whatever autocast says: the half-precision kernel there is the slower one to train through.
    """
    if q.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return attention(q.float(), k.float(), v.float())
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
