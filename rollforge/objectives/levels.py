"""The noise levels of training: the grid that the released programs draw from, and their weights.

Both are computed in float32 and in this order of operations: another order, or float64, moves a level by 6e-5.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from rollforge.ranges import Range
from rollforge.spec import TIMESTEPS

RELEASED = 1000
"""Levels of the grid that the released programs train on."""
Levels = Annotated[int, Range(1, 1_000_000)]


def grid(count: int, shift: float) -> Tensor:
    """Timesteps float32 ``[count]`` from noise down, shifted: ``sigma = s u / (1 + (s - 1) u)``, 0 left out."""
    u = torch.linspace(1, 0, count + 1)[:-1]
    return TIMESTEPS * (shift * u / (1 + (shift - 1) * u))


def nearest(timesteps: Tensor, levels: Tensor) -> Tensor:
    """The nearest of ``levels`` for each timestep."""
    levels = levels.to(timesteps.device)
    return levels[(timesteps[..., None] - levels).abs().argmin(-1)]


def bell(timesteps: Tensor, shift: float) -> Tensor:
    """The weight of the released programs: a bell around 500, 0 at pure noise, of mean 1 over their grid.

    ``exp(-2 ((t - 500) / 1000)^2)`` minus its smallest value on the grid of ``shift``.
    """
    values = _bell(grid(RELEASED, shift).to(timesteps.device))
    least = values.min()
    return ((_bell(timesteps) - least) * (RELEASED / (values - least).sum())).clamp(min=0)


def _bell(timesteps: Tensor) -> Tensor:
    return torch.exp(-2 * ((timesteps - TIMESTEPS / 2) / TIMESTEPS) ** 2)
