"""The attention of a rollout: the kernel that memories attend with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rollforge.errors import UserError
from rollforge.memory.attention import attention
from rollforge.ranges import Checked

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
Kernel = Literal["auto", "flash", "cudnn", "efficient", "math"]


class Attention(Checked, ABC):
    """Softmax attention of the tokens of a pass to themselves and to the frames of a plan. It has no state."""

    tolerance: float = 1e-5
    """How far its results in float32 may be off, relative to the largest. Only the check of the kit reads it."""

    @abstractmethod
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """The attention's result, like ``q``.

        Runs inside the network, which may be compiled: tensors only. A kernel that cannot take a bias or shared heads
        passes such calls on to another.

        Args:
            q: queries ``[B, L, heads, head_dim]``, rotated.
            k: keys ``[B, S, kv_heads, head_dim]``, rotated. Each is shared by ``heads / kv_heads`` heads in a row.
            v: values, like ``k``.
            bias: added to the logits; broadcast to ``[B, heads, L, S]``.
        """

    def check(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
        """Raises ``UserError`` where it cannot run. Called before a rollout; default: it runs everywhere."""

    def describe(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
        """The kernel that attends without a bias, for tables of speed."""
        return type(self).__name__


class Sdpa(Attention):
    """Torch's ``scaled_dot_product_attention``.

    On CUDA flash attention takes no bias, and the memory-efficient kernel no shared heads; torch chooses for those.

    Args:
        kernel: which of its kernels; ``auto``: torch chooses.
    """

    def __init__(self, kernel: Kernel = "auto") -> None:
        self.kernel = kernel

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.kernel == "auto" or not self._takes(q, k, bias):
            return attention(q, k, v, bias)
        with sdpa_kernel(BACKENDS[self.kernel]):
            return attention(q, k, v, bias)

    def check(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
        if self.kernel == "auto" or _runs(self.kernel, device, dtype, head_dim):
            return
        able = [name for name in BACKENDS if _runs(name, device, dtype, head_dim)]
        raise UserError(
            f"The attention kernel {self.kernel} does not run on {device.type} with {_name(dtype)} and heads of "
            f"{head_dim} numbers; set model.attention.init_args.kernel to auto or {' or '.join(able)}."
        )

    def describe(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
        chosen = self.kernel if self.kernel != "auto" else _chosen(device, dtype, head_dim)
        return f"{type(self).__name__} ({chosen})"

    def _takes(self, q: Tensor, k: Tensor, bias: Tensor | None) -> bool:
        if q.device.type != "cuda":
            return True
        if self.kernel == "flash":
            return bias is None
        return self.kernel != "efficient" or q.shape[2] == k.shape[2]


def _sample(device: torch.device, dtype: torch.dtype, head_dim: int) -> Tensor:
    return torch.zeros(1, 2, 16, head_dim, device=device, dtype=dtype)


def _runs(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    x = _sample(device, dtype, head_dim)
    with suppress(RuntimeError), torch.no_grad(), sdpa_kernel(BACKENDS[name]):
        torch.nn.functional.scaled_dot_product_attention(x, x, x)
        return True
    return False


def _chosen(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    x = _sample(device, dtype, head_dim)
    choose: Any = torch._fused_sdp_choice
    found = SDPBackend(choose(x, x, x))
    return next((name for name, backend in BACKENDS.items() if backend == found), found.name.lower())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
