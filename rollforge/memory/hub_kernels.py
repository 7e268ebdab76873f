"""Attention kernels that the ``kernels`` package loads from Hugging Face's hub. None has run on a GPU here."""

from __future__ import annotations

from abc import abstractmethod
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from rollforge.errors import UserError
from rollforge.memory.attention import attention
from rollforge.memory.kernels import Attention

HALF = (torch.bfloat16, torch.float16)


class HubAttention(Attention):
    """A kernel without biases and for half precision on CUDA. Other calls go to torch's attention.

    Repository and version are those of the class, so that a config cannot name code of its own.
    """

    repository: str
    version: int | None

    def __init__(self) -> None:
        self._loaded: Any = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        if self._loaded is None or bias is not None or q.dtype not in HALF:
            return attention(q, k, v, bias)
        return self.attend(self._loaded, q, k, v)

    @abstractmethod
    def attend(self, kernel: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Calls the loaded module."""

    def check(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
        """Loads the kernel, once. Raises ``UserError`` without CUDA, half precision, the package or the kernel."""
        name = type(self).__name__
        if device.type != "cuda" or dtype not in HALF:
            raise UserError(
                f"The attention {name} runs on CUDA in bfloat16 or float16, not on {device.type} in "
                f"{str(dtype).removeprefix('torch.')}; leave model.attention out, or change the device or precision."
            )
        if self._loaded is None:
            self._loaded = self._load()

    def _load(self) -> Any:
        try:
            return import_module("kernels").get_kernel(self.repository, version=self.version)
        except ImportError as error:
            raise UserError(
                f"The attention {type(self).__name__} needs the package kernels ({error}); run: pip install kernels"
            ) from error
        except Exception as error:  # no network, no build for this card or torch
            raise UserError(
                f"The kernel {self.repository} cannot be loaded ({type(error).__name__}: {error}); leave "
                "model.attention out to use torch's attention."
            ) from error


class FlashAttention3(HubAttention):
    """Flash attention for Hopper cards. Source: arXiv 2407.08608."""

    repository, version = "kernels-community/flash-attn3", 1

    def attend(self, kernel: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        made = kernel.flash_attn_func(q, k, v)
        result: Tensor = made[0] if isinstance(made, tuple) else made  # some builds return the log-sum-exp, too
        return result


class SageAttention(HubAttention):
    """Attention with 8-bit products, which changes results. Source: arXiv 2410.02367."""

    repository, version = "kernels-community/sage-attention", None

    def attend(self, kernel: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        result: Tensor = kernel.sageattn(q, k, v, tensor_layout="NHD", is_causal=False)
        return result
