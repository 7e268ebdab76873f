"""What networks predict, and the flow that samplers and objectives work with.

Noisy latents are ``x = (1 - sigma) clean + sigma noise``, and the flow is ``noise - clean``. A network may predict the
flow, the clean frames, the noise, or the velocity ``(1 - sigma) noise - sigma clean`` (v-prediction, Salimans and Ho,
arXiv 2202.00512, with the coefficients of this path). Timesteps are ``1000 sigma`` everywhere; a network with other
``levels`` gets ``sigma levels``.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from rollforge.backbones.base import Backbone, Condition
from rollforge.memory.base import Memory
from rollforge.spec import TIMESTEPS, ModelSpec


def predict(
    backbone: Backbone, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Memory, **extra: Any
) -> Tensor:
    """The prediction of a network, of any kind, for latents ``[B, F, C, H, W]`` at timesteps ``[B, F]`` (0 to 1000).

    A timestep above the network's largest level is passed as that level.
    """
    prediction: Tensor = backbone(latents, levels_of(backbone.spec, timesteps), condition, memory, **extra)
    return prediction


def levels_of(spec: ModelSpec, timesteps: Tensor) -> Tensor:
    """Timesteps (0 to 1000) on the scale of the network's noise levels."""
    known = timesteps if spec.largest_level == TIMESTEPS else timesteps.clamp(max=spec.largest_level)
    return known if spec.levels == TIMESTEPS else known * (spec.levels / TIMESTEPS)


def is_sharded(network: nn.Module) -> bool:
    """Whether FSDP2 shards its weights: they are whole in its forward pass only, which every process must run."""
    return hasattr(network, "unshard")


def takes_extra(backbone: Backbone) -> bool:
    """Whether a network, compiled or not, takes the ``extra`` of a sampler's passes."""
    return "extra" in signature(getattr(backbone, "_orig_mod", backbone).forward).parameters


def is_compiled(backbone: Backbone) -> bool:
    """Whether a network was compiled as a whole, by ``torch.compile(network)`` or ``network.compile()``."""
    return hasattr(backbone, "_orig_mod") or getattr(backbone, "_compiled_call_impl", None) is not None


def to_flow(spec: ModelSpec, prediction: Tensor, latents: Tensor, timesteps: Tensor) -> Tensor:
    """The flow that corresponds to a prediction, in float32 or better.

    Where the noise level is 0 the noise is unknown, and its mean 0 is taken; where a network that predicts noise
    determines no clean frames, at pure noise, their mean 0 is used.

    Args:
        spec: the network's.
        prediction: what it predicted, ``[B, F, C, H, W]``.
        latents: noisy latents, ``[B, F, C, H, W]``.
        timesteps: ``[B, F]``, 0 to 1000.
    """
    if spec.predicts == "flow" and spec.largest_level == TIMESTEPS:
        return prediction
    sigma = (timesteps / TIMESTEPS)[..., None, None, None]
    known = sigma.clamp(max=spec.largest_level / TIMESTEPS)
    kind = torch.promote_types(latents.dtype, torch.float32)
    x, prediction = latents.to(kind), prediction.to(kind)
    if spec.predicts == "flow":
        return prediction * _share(known, sigma)
    if spec.predicts == "velocity":
        squares = known**2 + (1 - known) ** 2
        return ((2 * known - 1) * x + prediction) / squares * _share(known, sigma)
    clean = prediction
    if spec.predicts == "noise":
        rest = 1 - known
        clean = torch.where(rest > 0, (x - known * prediction) / rest.clamp(min=1e-12), torch.zeros_like(x))
    return torch.where(sigma > 0, (x - clean) / sigma.clamp(min=1e-12), -clean)


def target(spec: ModelSpec, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What a network should predict of clean ``[B, F, C, H, W]`` with noise added at ``timesteps`` ``[B, F]``."""
    sigma = (timesteps / TIMESTEPS)[..., None, None, None]
    targets = {"flow": noise - clean, "clean": clean, "noise": noise, "velocity": (1 - sigma) * noise - sigma * clean}
    return targets[spec.predicts]


def _share(known: Tensor, sigma: Tensor) -> Tensor:
    """By which the flow shrinks so that one step from ``sigma`` to 0 ends where one from ``known`` does."""
    return torch.where(sigma > 0, known / sigma.clamp(min=1e-12), torch.ones_like(sigma))
