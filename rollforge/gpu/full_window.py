"""A rollout that starts with a full window of random keys, so that its first block is like all later ones."""

from __future__ import annotations

import torch
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.memory import RolloutMemory
from rollforge.rollout import Rollout, RolloutIterator
from rollforge.rollout.steps import step_of
from rollforge.spec import ModelSpec
from rollforge.state import State

MADE = 100
"""Blocks that count as made."""


def with_full_window(
    rollout: Rollout, condition: Condition, blocks: int, negative: Condition | None = None
) -> RolloutIterator | None:
    """A rollout of so many more blocks after ``MADE``, whose live frames have random latents, keys and values.

    None where such a state cannot be made up: for policies that make virtual frames or read what they have learned, and
    for memories that are not a ``RolloutMemory``.
    """
    spec = rollout.backbone.spec
    start = [*spec.blocks((MADE + 1) * max(spec.block, spec.first))][MADE].start
    frames = start + blocks * spec.block
    started = rollout(condition, frames, negative=negative)
    state, step = started.state_dict(), step_of(spec, MADE, start)
    live, memories = sorted(started.policy.live(start, spec.block)), started.passes.memories.values()
    if any(frame < 0 for frame in live) or not all(isinstance(each, RolloutMemory) for each in memories):
        return None
    like = torch.empty(len(condition.embeds), 0, device=started.passes.device, dtype=started.passes.dtype)
    latents = {frame: torch.randn(len(like), 1, *spec.latent_shape, device=like.device) for frame in live}
    state |= {"index": MADE, "start": start, "finished": latents}
    for branch in state["memories"]:
        state["memories"][branch] |= _memory(spec, live, like)
    run = rollout(condition, frames, negative=negative, state=state)
    plan = run.policy.plan(step).of_depth(spec.layers)
    lacking = any(memory.lacks(plan, run.policy.moves(start, spec.block)) for memory in run.passes.memories.values())
    return None if lacking else run


def _memory(spec: ModelSpec, live: list[int], like: Tensor) -> State:
    """The state of a memory with raw keys and values of the live frames."""

    def keys(layer: int, tokens: int) -> Tensor:
        return torch.randn(len(like), tokens, *spec.kv_shape(layer), device=like.device, dtype=like.dtype)

    layers = range(spec.layers)
    return {
        "raw": {frame: [(keys(layer, spec.tokens), keys(layer, spec.tokens)) for layer in layers] for frame in live},
        "born": {frame: frame for frame in live},
        "blanks": {layer: (keys(layer, 0), keys(layer, 0)) for layer in layers},
    }
