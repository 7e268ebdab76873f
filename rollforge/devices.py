"""Moving tensors between the CPU and a device without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A fresh CPU tensor on ``device``, or the tensor itself where it is there already.

    On CUDA the host does not wait for the work that is queued. That is safe from memory that is not pinned: CUDA has
    copied it before the call returns. Other devices are waited for.
    """
    return tensor.to(device, non_blocking=device.type == "cuda" and not tensor.is_pinned())


def working_dtype(device: torch.device | str) -> torch.dtype:
    """The dtype that ``dtype: auto`` stands for: bfloat16 on a CUDA device that computes in it, else float32.

    Cards before compute capability 8.0 only imitate bfloat16, slowly. A CUDA device that is not here is taken to have
    it.
    """
    if torch.device(device).type != "cuda":
        return torch.float32
    lacks = torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.float32 if lacks else torch.bfloat16


def default_device() -> torch.device:
    """The device that ``device: auto`` stands for: CUDA where there is a card, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
