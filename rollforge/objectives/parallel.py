"""Predictions for a complete clip in one parallel pass."""

from __future__ import annotations

import torch
from torch import Tensor

from rollforge.backbones.base import Backbone, Condition
from rollforge.memory import Memory
from rollforge.prediction import predict, to_flow
from rollforge.spec import TIMESTEPS


def prediction(backbone: Backbone, latents: Tensor, levels: Tensor, condition: Condition, memory: Memory) -> Tensor:
    """The prediction for noisy ``[B, F, C, H, W]`` at ``levels`` ``[B, F]``, in the precision of the weights."""
    dtype = next(backbone.parameters()).dtype
    return predict(backbone, latents.to(dtype), levels, condition.to(dtype=dtype), memory)


def prediction_on(
    backbone: Backbone, history: Tensor, noisy: Tensor, levels: Tensor, condition: Condition, memory: Memory
) -> Tensor:
    """The prediction for ``noisy`` next to a ``history`` of clean frames, under a teacher-forcing ``memory``."""
    both, times = torch.cat([history, noisy], dim=1), torch.cat([torch.zeros_like(levels), levels], dim=1)
    return prediction(backbone, both, times, condition, memory)[:, history.shape[1] :]


def clean_of(backbone: Backbone, predicted: Tensor, noisy: Tensor, levels: Tensor) -> Tensor:
    """The clean frames that a prediction corresponds to: ``x - sigma flow``."""
    sigma = (levels / TIMESTEPS)[..., None, None, None]
    return noisy - sigma * to_flow(backbone.spec, predicted, noisy, levels)
