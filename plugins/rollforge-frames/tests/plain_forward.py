"""The network without a memory: a dense pass over a whole video under a mask, in plain torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def clean_frames(
    net: dict[str, Tensor], heads: int, x: Tensor, sigma: Tensor, shape: Tensor, times: Tensor, sees: Tensor
) -> Tensor:
    """Clean latents ``[B, F, C, h, w]`` as predicted from noisy ones.

    Args:
        net: the state dict of a ``FrameTransformer``.
        heads: its attention heads.
        x: noisy latents.
        sigma: noise level of each frame in 0..1, ``[B, F]``.
        shape: class of each sample, ``[B]``.
        times: time index of each frame, ``[F]``.
        sees: bool ``[F, F]``, which frame (row) attends to which (column).
    """
    layers = 1 + max(int(name.split(".")[1]) for name in net if name.startswith("layers."))
    h = linear(net, "enter", x.flatten(2)) + net["time.weight"][times % len(net["time.weight"])]
    angle = sigma[..., None] * torch.tensor([10 ** (2 * n / 15) for n in range(16)])
    level = functional.silu(linear(net, "level.0", torch.cat([angle.sin(), angle.cos()], -1)))
    frame = functional.silu(linear(net, "level.2", level) + net["shape.weight"][shape][:, None])
    for n in range(layers):
        scale1, shift1, scale2, shift2 = linear(net, f"layers.{n}.modulation", frame).chunk(4, -1)
        q, k, v = linear(net, f"layers.{n}.qkv", normal(h) * (1 + scale1) + shift1).chunk(3, -1)
        outputs = []
        for one_q, one_k, one_v in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
            scores = one_q @ one_k.mT / math.sqrt(one_q.shape[-1])
            outputs.append(scores.masked_fill(~sees, -math.inf).softmax(-1) @ one_v)
        h = h + linear(net, f"layers.{n}.out", torch.cat(outputs, -1))
        wide = functional.gelu(linear(net, f"layers.{n}.mlp.0", normal(h) * (1 + scale2) + shift2))
        h = h + linear(net, f"layers.{n}.mlp.2", wide)
    h = normal(h) * net["leave.0.weight"] + net["leave.0.bias"]
    return linear(net, "leave.1", h).view_as(x)


def linear(net: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ net[f"{name}.weight"].mT + net[f"{name}.bias"]


def normal(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
