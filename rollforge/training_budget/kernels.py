"""How tensors on the meta device are computed as a device would: attention in one kernel, and mixed precision."""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional
from torch.overrides import TorchFunctionMode

LOWERED = {
    functional.linear, functional.conv1d, functional.conv2d, functional.conv3d, functional.conv_transpose2d,
    functional.conv_transpose3d, torch.matmul, torch.bmm, torch.einsum, Tensor.matmul, Tensor.__matmul__,
}  # fmt: skip
"""What autocast computes in half precision, of all that networks like these use."""
RAISED = {functional.mse_loss, functional.l1_loss}
"""What it computes in float32."""
RAISED_ON_GPU = {functional.layer_norm, functional.group_norm}
"""What it computes in float32 except on a CPU."""


class Kernels(TorchFunctionMode):
    """Computes attention as a fused kernel does, which keeps no scores, and casts as autocast does.

    Autocast itself does not know of the meta device.

    Args:
        half: what autocast casts to; None without autocast.
        device: the device that is meant. On a CPU attention stays in float32 under autocast.
    """

    def __init__(self, half: torch.dtype | None, device: str) -> None:
        super().__init__()
        self.half, self.attending = half, torch.float32 if device == "cpu" else half
        self.raised = RAISED if device == "cpu" else RAISED | RAISED_ON_GPU
        self.weights: dict[int, Tensor] = {}  # autocast keeps its copies of weights, too

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return FusedAttention.apply(*(self._cast(each, self.attending) for each in args[:3]))
        if func in LOWERED or func in self.raised:
            dtype = self.half if func in LOWERED else torch.float32
            args = [self._cast(each, dtype) for each in args]
            kwargs = {name: self._cast(each, dtype) for name, each in kwargs.items()}
        return func(*args, **kwargs)

    def hold_in(self, network: nn.Module) -> None:
        """Computes so whenever the network runs: also in a backward pass, in which torch leaves modes out."""
        forward = network.forward

        @wraps(forward)
        def held(*arguments: Any, **options: Any) -> Any:
            with self:
                return forward(*arguments, **options)

        network.forward = held

    def _cast(self, value: Any, dtype: torch.dtype | None) -> Any:
        if self.half is None or dtype is None or not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        if value.dtype == dtype or not (value.is_leaf and value.requires_grad and torch.is_grad_enabled()):
            return value.to(dtype)
        if id(value) not in self.weights:
            self.weights[id(value)] = value.to(dtype)
        return self.weights[id(value)]


class FusedAttention(Function):
    """Writes the result and one number for each query and head, and needs both again for the gradients."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        result, sums = torch.empty_like(q), torch.empty(q.shape[:-1], device=q.device)
        ctx.save_for_backward(q, k, v, result, sums)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return tuple(torch.empty_like(each) for each in ctx.saved_tensors[:3])
