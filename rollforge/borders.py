"""Checks what components return, where it is returned. Errors name the component.

They look at types and shapes and, except for pixels, never wait for a device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from rollforge.errors import UserError, class_of

SLACK = 0.25  # by which pixels may leave 0..1 before their range is taken for another one


class WrongAnswer(UserError):
    """A component returned what its contract does not allow."""

    def __init__(self, kind: str, part: object, answer: Any, when: str, expected: str) -> None:
        super().__init__(f"The {kind} {class_of(part)} returned {shown(answer)} {when}; expected {expected}.")


def shown(answer: Any) -> str:
    """What was returned, in a few words."""
    if isinstance(answer, Tensor):
        return f"a {str(answer.dtype)[6:]} tensor of shape {list(answer.shape)}"
    return " ".join(repr(answer).split())[:60]


def check_tensor(
    kind: str, part: object, answer: Any, when: str, shape: Sequence[int | None], device: torch.device | None = None
) -> Tensor:
    """The result, if it is a float tensor of this shape (None: any size) on this device. Raises ``WrongAnswer``."""
    sizes = [size if size is not None else "any" for size in shape]
    expected = f"floats of shape {sizes}".replace("'", "")
    fits = (
        isinstance(answer, Tensor)
        and answer.layout is torch.strided
        and answer.is_floating_point()
        and answer.dim() == len(shape)
        and all(want in (None, size) for size, want in zip(answer.shape, shape, strict=True))
    )
    if not fits:
        raise WrongAnswer(kind, part, answer, when, expected)
    if answer.is_meta if device is None else answer.device != device:
        raise WrongAnswer(kind, part, answer, f"on {answer.device} {when}", f"it on {device or 'a real device'}")
    return answer


def check_pixels(kind: str, part: object, answer: Any, when: str, shape: Sequence[int], source: Tensor) -> Tensor:
    """Pixel frames, if they are floats of this shape and from 0 to 1. Raises ``WrongAnswer``. Waits for the device.

    Those that are not finite may only come from a ``source`` that is not.
    """
    frames = check_tensor(kind, part, answer, when, shape)
    low, high = torch.stack(frames.aminmax()).tolist() if frames.numel() else (0.0, 0.0)  # one copy from the device
    if isnan(low) and source.isfinite().all():
        raise WrongAnswer(kind, part, "pixel values that are NaN", when, "values from 0 to 1")
    if low < -SLACK or high > 1 + SLACK:
        raise WrongAnswer(kind, part, f"pixel values from {low:.3g} to {high:.3g}", when, "values from 0 to 1")
    return frames


def whole(value: Any) -> bool:
    """Whether a value is a whole number."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_size(kind: str, part: object, answer: Any) -> tuple[int, int]:
    """What ``pixel_size`` returned, if it is a width and a height. Raises ``WrongAnswer``."""
    pair = isinstance(answer, (tuple, list)) and len(answer) == 2
    if not pair or not all(whole(edge) and edge > 0 for edge in answer):
        raise WrongAnswer(kind, part, answer, "from pixel_size", "a width and a height in pixels")
    return answer[0], answer[1]


def check_curves(part: object, answer: Any, when: str, frames: int) -> dict[str, Tensor]:
    """The curves of a metric, if there is one number for each frame in each. Raises ``WrongAnswer``."""
    expected = f"a dict from names to tensors of {frames} numbers"
    if not isinstance(answer, Mapping):
        raise WrongAnswer("metric", part, answer, when, expected)
    for name, curve in answer.items():
        if not isinstance(name, str) or not name.strip() or any(sign in name for sign in ',"\n\r'):
            raise WrongAnswer("metric", part, name, f"as the name of a curve {when}", "text without commas and quotes")
        numbers = isinstance(curve, Tensor) and not curve.is_complex() and curve.shape == (frames,)
        if not numbers:
            raise WrongAnswer("metric", part, curve, f"as the curve {name} {when}", f"a tensor of {frames} numbers")
    return dict(answer)


def check_values(part: object, answer: Any, when: str) -> dict[str, float]:
    """The values of a metric, if they are named numbers. Raises ``WrongAnswer``."""
    if not isinstance(answer, Mapping):
        raise WrongAnswer("metric", part, answer, when, "a dict from names to numbers")
    for name, value in answer.items():
        scalar = isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)
        if not isinstance(name, str) or not scalar:
            raise WrongAnswer("metric", part, value, f"as {name!r:.40} {when}", "a name and a number")
    return {name: float(value) for name, value in answer.items()}


def check_losses(part: object, answer: Any, when: str) -> dict[str, Tensor]:
    """The losses of an objective, if they are scalars and ``loss`` is one that can be minimised."""
    if not isinstance(answer, Mapping) or "loss" not in answer:
        raise WrongAnswer("objective", part, answer, when, "a dict of scalar tensors with the key 'loss'")
    for name, value in answer.items():
        if not isinstance(value, Tensor) or value.dim() or not value.is_floating_point():
            raise WrongAnswer("objective", part, value, f"as {name!r:.40} {when}", "a scalar tensor of floats")
    if torch.is_grad_enabled() and not answer["loss"].requires_grad:
        raise WrongAnswer("objective", part, "a 'loss' without a gradient", when, "one that depends on the weights")
    return dict(answer)
