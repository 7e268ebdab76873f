"""Layers of Wan that torch has in a slower form, or under other names."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

SLOPE = 2 * math.sqrt(2 / math.pi)
_SLOPE = torch.tensor(SLOPE)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the full width. torch computes it in float32, whatever the number format."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class PatchEmbedding(nn.Conv3d):
    """Patches of latents ``[B, F, C, H, W]`` to tokens ``[B, F * tokens, width]``.

    Its weights are those of a convolution, whose patches do not overlap: one matrix product.
    """

    def forward(self, latents: Tensor) -> Tensor:
        _, high, wide = self.kernel_size
        patches = latents.unflatten(-1, (-1, wide)).unflatten(-3, (-1, high))  # [B, F, C, rows, h, columns, w]
        tokens = patches.permute(0, 1, 3, 5, 2, 4, 6).flatten(1, 3).flatten(2)
        return functional.linear(tokens, self.weight.flatten(1), self.bias)


class TanhGELU(nn.Module):
    """``x (1 + tanh(u)) / 2`` with ``u = sqrt(2 / pi) (x + 0.044715 x^3)``: torch's ``GELU(approximate="tanh")``.

    The same is ``x sigmoid(2 u)``, which a CPU computes in half the time, four operators though it is.
    """

    def forward(self, x: Tensor) -> Tensor:
        plain = x.device.type == "cpu" and x.dtype == torch.float32
        if not plain or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return functional.gelu(x, approximate="tanh")
        return torch.addcmul(_SLOPE, x, x, value=0.044715 * SLOPE).mul_(x).sigmoid_().mul_(x)
