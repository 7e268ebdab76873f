"""Parts that draw from every global random number generator, as dropout and augmentations do."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import dropout

from rollforge.backbones.base import Condition
from rollforge.backbones.pocket.network import Pocket
from rollforge.data.clips import Clip, WorldClips
from rollforge.memory.base import Memory
from rollforge.policies import RollingSink
from rollforge.spec import ReadPlan, Step


class Dropping(Pocket):
    """A network with dropout, and noise from NumPy and Python."""

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Memory) -> Tensor:
        flow: Tensor = dropout(super().forward(latents, timesteps, condition, memory), 0.2, self.training)
        return flow * (1 + 0.01 * np.random.rand() + 0.01 * random.random()) if self.training else flow  # noqa: NPY002


class Augmented(WorldClips):
    """Clips whose brightness is left to chance, in the process that reads them."""

    def __getitem__(self, index: int) -> Clip:
        clip = super().__getitem__(index)
        factor = (float(torch.rand(())) + np.random.rand() + random.random()) / 3  # noqa: NPY002
        return {**clip, "video": (clip["video"] * factor).to(torch.uint8)}


class Wasteful(RollingSink):
    """A policy that draws random numbers for nothing."""

    def __init__(self) -> None:
        super().__init__(context_blocks=2, sink_blocks=1)

    def plan(self, step: Step) -> ReadPlan:
        _: Any = torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002
        return super().plan(step)
