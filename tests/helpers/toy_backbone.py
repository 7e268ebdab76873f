"""A backbone of a few hundred weights that can ask a memory for anything."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rollforge.backbones.base import Backbone, Condition
from rollforge.memory import Memory
from rollforge.positions import NoPositions, Positions
from rollforge.spec import ModelSpec

BLOCK, TOKENS, LAYERS, HEADS, DIM = 2, 4, 2, 2, 8


class Toy(Backbone):
    """Attention, and what a flag adds, over four tokens of a frame.

    Args:
        kv_heads: heads of keys and values.
        extra: ``bias`` among the frames of a pass, a ``recurrent`` layer, ``history``, the latents of earlier frames,
            or ``actions`` of each frame.
        positions: what turns queries and keys.
        spec: changes of its ``ModelSpec``.
    """

    def __init__(self, kv_heads: int = HEADS, extra: str = "", positions: Positions | None = None, **spec: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.spec = ModelSpec(2, 2, 2, (1, 1), LAYERS, HEADS, DIM, BLOCK, window=6, horizon=6, fps=8, **spec)
        self.kv_heads, self.extra, self.positions = kv_heads, extra, positions or NoPositions()
        wide = (HEADS + 2 * kv_heads) * DIM
        self.enter, self.leave = nn.Linear(3, DIM), nn.Linear(DIM, 2)
        self.qkv = nn.ModuleList(nn.Linear(DIM, wide) for _ in range(LAYERS))
        self.out = nn.ModuleList(nn.Linear(HEADS * DIM, DIM) for _ in range(LAYERS))
        self.state = nn.Linear(2 * DIM, DIM)
        self.actions = nn.Embedding(300, DIM)
        for value in self.parameters():
            nn.init.normal_(value, std=0.4)

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Memory) -> Tensor:
        level = (timesteps / 1000)[..., None, None].expand(*timesteps.shape, TOKENS, 1)
        x = self.enter(torch.cat([latents.flatten(3).mT, level], -1)).flatten(1, 2) + condition.embeds
        if self.extra == "history" and memory.now.plan and memory.now.plan.segments:
            past = memory.history([frame for frame, _ in memory.now.plan.entries()])
            x = x + past.mean(dim=(1, 2, 3, 4))[:, None, None]
        if self.extra == "actions":
            x = x + self.actions(condition.extra["actions"]).repeat_interleave(TOKENS, dim=1)
        for layer in range(LAYERS):
            split = (HEADS * DIM, self.kv_heads * DIM, self.kv_heads * DIM)
            q, k, v = (part.unflatten(2, (-1, DIM)) for part in self.qkv[layer](normal(x)).split(split, dim=2))
            bias = None
            if self.extra == "bias":
                place = torch.arange(x.shape[1])
                bias = -(place[:, None] - place).abs() * torch.tensor([0.5, 0.1])[:, None, None]
            x = x + self.out[layer](memory.attend(layer, q, k, v, bias).flatten(2))
            if self.extra == "recurrent":
                x = x + memory.carry(layer, "mean", lambda before, x=x: self.recur(x, before))
        return self.leave(normal(x)).unflatten(1, (-1, TOKENS)).mT.unflatten(3, latents.shape[3:])

    def recur(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """A state that goes from frame to frame: each frame sees that of the frames before it."""
        state = torch.zeros(len(x), DIM) if state is None else state
        seen = []
        for frame in x.unflatten(1, (-1, TOKENS)).unbind(1):
            seen.append(state[:, None].expand_as(frame))
            state = torch.tanh(self.state(torch.cat([state, frame.mean(1)], -1)))
        return torch.cat(seen, 1), state


def normal(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:])


def condition(sample: int) -> Condition:
    """Features of one sample."""
    return Condition(str(sample), torch.full((1, 1, DIM), 0.3 * sample - 0.1))
