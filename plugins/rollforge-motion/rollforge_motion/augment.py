"""Augmentation of pairs of pictures: colours and crops."""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
STRENGTH = 0.4
APART = 0.2
"""Share of the pairs whose two pictures are changed differently."""


def recoloured(before: Tensor, after: Tensor, apart: float = APART) -> tuple[Tensor, Tensor]:
    """Pictures ``[N, 3, H, W]`` in -1..1 with other brightness, contrast and saturation, mostly the same for both."""
    first, second = torch.rand(2, 3, len(before), 1, 1, 1)
    same = torch.rand(len(before), 1, 1, 1) >= apart
    return _recoloured(before, first), _recoloured(after, torch.where(same, first, second))


def _recoloured(pictures: Tensor, drawn: Tensor) -> Tensor:
    brightness, contrast, saturation = (1 + STRENGTH * (2 * drawn - 1)).to(pictures)
    shown = brightness * (pictures + 1) / 2
    mean = shown.mean((1, 2, 3), keepdim=True)
    shown = mean + contrast * (shown - mean)
    grey = (shown * torch.tensor(LUMA).to(shown)[:, None, None]).sum(1, keepdim=True)
    return 2 * (grey + saturation * (shown - grey)).clamp(0, 1) - 1


def cropped(crop: tuple[int, int], *tensors: Tensor) -> list[Tensor]:
    """The same place of all of them, ``[..., H, W]``; the complete ones where they are no larger."""
    rows, columns = tensors[0].shape[-2:]
    height, width = min(crop[0], rows), min(crop[1], columns)
    y, x = (int(torch.randint(room + 1, ())) for room in (rows - height, columns - width))
    return [each[..., y : y + height, x : x + width] for each in tensors]
