"""Scaled dot-product attention in the layout the backbones use."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Queries ``[B, L, heads, head_dim]`` on keys and values ``[B, S, heads, head_dim]``.

    Keys and values may have fewer heads, each shared by as many heads of the queries in a row. ``bias`` is added to the
    logits; it is broadcast to ``[B, heads, L, S]``. On a CPU in float32, whatever autocast says: the half-precision
    kernel there is the slower one to train through.
    """
    if q.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return attention(q.float(), k.float(), v.float(), bias)
    shared = q.shape[2] != k.shape[2]
    mask = None if bias is None else bias.to(q.dtype)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=shared).transpose(1, 2)
