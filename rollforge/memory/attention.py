"""Scaled dot-product attention in the layout the backbones use."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """``[B, L, heads, head_dim]`` queries on ``[B, S, heads, head_dim]`` keys; ``mask`` ``[L, S]`` is True where seen."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
