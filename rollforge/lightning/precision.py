"""Number formats: what a device can compute in, and the default one of torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

log = logging.getLogger(__name__)

SMALLEST_EPSILON = 1e-4
"""Of an optimizer on float16 weights; the usual 1e-8 is 0 there."""


@contextmanager
def float32_by_default() -> Iterator[None]:
    """In this block new tensors are float32 unless they say otherwise, whatever precision the Trainer has.

    Lightning's ``bf16-true``, ``16-true`` and ``64-true`` change torch's default, and with it the numbers drawn.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def keeping_format(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What moves a tensor as ``fn`` does and leaves its number format."""

    def moved(value: Tensor) -> Tensor:
        result = fn(value)
        return result if result.dtype == value.dtype else value.to(result.device)

    return moved


def representable_epsilon(optimizer: Optimizer) -> None:
    """Raises an ``eps`` that is 0 in float16 where weights are float16, for it is there to avoid a division by 0."""
    for group in optimizer.param_groups:
        half = any(weight.dtype == torch.float16 for weight in group["params"])
        if half and torch.tensor(group.get("eps", 1.0), dtype=torch.float16) == 0:
            log.warning(
                "The optimizer's eps of %g is 0 in float16; %g is used. Small gradients are 0 there too, and training "
                "differs from other precisions; prefer bf16-true, 16-mixed or bf16-mixed.",
                group["eps"], SMALLEST_EPSILON,
            )  # fmt: skip
            group["eps"] = SMALLEST_EPSILON


def device_problem(precision: str, device: torch.device) -> str | None:
    """Why a device cannot train or generate in a precision of the Trainer's; nothing where it can."""
    if "bf16" in precision:
        old = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
        old |= device.type == "mps" and not torch.backends.mps.is_macos_or_newer(14, 0)
        if old:
            return f"{device} has no bfloat16; set trainer.precision to 16-mixed, 16-true or 32-true"
    if "64" in precision and device.type == "mps":
        return f"{device} has no float64; set trainer.precision to 32-true"
    return None
