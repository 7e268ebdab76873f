"""Parts from outside: a policy that looks back in turns, and a backbone that needs no weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rollforge.backbones.base import Backbone, Condition
from rollforge.memory.base import Memory
from rollforge.policies import CachePolicy
from rollforge.registry import Register, hookimpl
from rollforge.spec import ModelSpec, ReadPlan, Segment, Step


class Wobble(CachePolicy):
    """Sees the block before it and, every other time, the one before that.

    Args:
        reach: blocks that an odd block sees.
    """

    def __init__(self, reach: int = 2) -> None:
        self.reach = reach

    def plan(self, step: Step) -> ReadPlan:
        length = min(step.start, (self.reach if step.index % 2 else 1) * step.block)
        first = step.start - length
        return ReadPlan((Segment(first, first, length),) if length else (), step.start)

    def live(self, start: int, block: int) -> frozenset[int]:
        return frozenset(range(max(0, start - self.reach * block), start))

    def visible(self, block: int) -> int:
        return self.reach * block


class Fade(Backbone):
    """Attends over what the policy shows it and pulls every frame towards the mean."""

    def __init__(self, strength: float = 0.5) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(strength))
        self.spec = ModelSpec(
            channels=8, height=8, width=8, patch=(2, 2), layers=1, heads=2, head_dim=16, block=3, window=9, horizon=9,
            fps=8.0,
        )  # fmt: skip

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Memory) -> Tensor:
        batch, frames = latents.shape[:2]
        tokens = latents.unfold(3, 2, 2).unfold(4, 2, 2).permute(0, 1, 3, 4, 2, 5, 6).reshape(batch, -1, 2, 16)
        seen = memory.attend(0, tokens, tokens, tokens).reshape(batch, frames, 4, 4, 8, 2, 2)
        pulled: Tensor = seen.permute(0, 1, 4, 2, 5, 3, 6).reshape(latents.shape)
        return self.strength * (latents - pulled)


@hookimpl
def rollforge_register_cache(register: Register) -> None:
    register(Wobble)


@hookimpl
def rollforge_register_backbone(register: Register) -> None:
    register("rollforge_wobble:Fade")
