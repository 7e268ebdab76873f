"""Attention to a share of the keys, and what joins the results: softmax by parts with log-sum-exp.

With logits ``s`` and ``l = log sum exp(s)`` over one share of the keys, attention to all keys is the mean of the
shares' outputs, weighted by the softmax of their ``l``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


def attention_with_sums(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention as ``memory.attention``, and the log of the sum of exponentials of the logits.

    Queries ``[B, L, heads, head_dim]``, keys and values ``[B, S, heads or fewer, head_dim]``; the results are
    ``[B, L, heads, head_dim]`` and float32 ``[B, L, heads]``.
    """
    shared = q.shape[2] // k.shape[2]
    if shared > 1:
        k, v = (x.repeat_interleave(shared, dim=2) for x in (k, v))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if bias is not None:
        bias = bias.to(q.dtype).expand(*q.shape[:3], k.shape[2])
    if q.device.type == "cpu":
        made, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=bias)
    elif q.device.type == "cuda" and q.dtype in HALF and bias is None:
        made, sums, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)
    else:
        made, sums = written_out(q, k, v, bias)
    return made.transpose(1, 2), sums.transpose(1, 2).float()


def written_out(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same without a kernel: ``[B, heads, L, head_dim]`` and ``[B, heads, L]``, all logits in memory at once."""
    logits = (q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[-1])
    logits = logits if bias is None else logits + bias.float()
    sums = logits.logsumexp(-1, keepdim=True)
    return (logits - sums).exp().to(v.dtype) @ v, sums[..., 0]


def joined(outputs: Tensor, sums: Tensor) -> Tensor:
    """Attention to all keys, from that to each share.

    ``outputs`` are ``[shares, B, L, heads, head_dim]``, ``sums`` ``[shares, B, L, heads]``.
    """
    return (outputs.float() * sums.softmax(0)[..., None]).sum(0).to(outputs.dtype)
