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
