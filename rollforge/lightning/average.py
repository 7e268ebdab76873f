"""The running average of the trained weights, and how a checkpoint stores it. Rollouts use the average."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from rollforge.backbones.training_checkpoint import AVERAGE


class Average(AveragedModel):
    """An exponential average of weights and buffers, in a dtype of its own.

    Args:
        network: what to average.
        decay: what is left of the average after a step.
        start: step of the training from which on it averages; until then it is a copy.
    """

    def __init__(self, network: nn.Module, decay: float, start: int = 0) -> None:
        super().__init__(network, use_buffers=True)
        self.decay, self.start = decay, start
        self.requires_grad_(False)

    def update_at(self, step: int, model: nn.Module) -> None:
        """Takes a step of the training, counted from 0, into the average."""
        if step < self.start:
            self.n_averaged.zero_()
        self.update_parameters(model)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Moves one step towards the weights of ``model``; the first call copies them."""
        first = self.n_averaged == 0
        averaged, current = (chain(each.parameters(), each.buffers()) for each in (self.module, model))
        for mean, value in zip(averaged, current, strict=True):
            if first or not mean.is_floating_point():
                mean.detach().copy_(value)
            else:
                mean.detach().lerp_(value.detach().to(mean.dtype), 1 - self.decay)
        self.n_averaged += 1


def use_ema_weights(weights: dict[str, Tensor]) -> None:
    """Puts the average, if there is one, in place of the weights of the part that it is an average of."""
    average = {
        name.removeprefix(f"{AVERAGE}module."): weights.pop(name) for name in [*weights] if name.startswith(AVERAGE)
    }
    for part in ("backbone", "codec", "finish"):
        trained = {f"{part}.{name}": value for name, value in average.items() if name != f"{AVERAGE}n_averaged"}
        if trained.keys() <= weights.keys():
            weights |= trained
