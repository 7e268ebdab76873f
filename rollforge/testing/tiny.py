"""A tiny network, and rollouts with it: what the checks of policies, samplers and codecs share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from rollforge.backbones.base import Backbone, Condition
from rollforge.backbones.pocket.network import Pocket
from rollforge.memory import BlendBranches
from rollforge.noise import IndependentNoise
from rollforge.policies.base import CachePolicy
from rollforge.policies.window import Window
from rollforge.rollout import Rollout
from rollforge.samplers.base import Sampler
from rollforge.samplers.few_step import FewStep
from rollforge.state import State

TOLERANCE = 1e-4
REPLAYED = 1e-6  # largest difference after committing finished latents again, which runs passes of the same shapes
"""How far results may differ that float32 computes in another order."""
SHAPE = (4, 4, 4)
"""Channels, height and width of the tiny network's latents."""
WIDTH, WORDS = 8, 2


def network(block: int = 3, layers: int = 1) -> Backbone:
    """Pocket with few layers and random weights, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        made = Pocket(
            channels=SHAPE[0], height=SHAPE[1], width=SHAPE[2], dim=16, layers=layers, heads=2, ffn_dim=32, freq_dim=16,
            text_dim=WIDTH, text_len=WORDS, block=block, window=3 * block, horizon=3 * block, weights="random",
        ).eval()  # fmt: skip
        for weight in made.parameters():  # some layers begin at zero, and would see nothing
            torch.nn.init.normal_(weight, std=0.15)
    return made


def condition(rows: int = 1, name: str = "kit") -> Condition:
    """Text features for the tiny network; each row its own."""
    seeds = [sum(map(ord, name)) + row for row in range(rows)]
    rows_of = [torch.randn(WORDS, WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return Condition(f"{name}-{rows}", torch.stack(rows_of))


def row_of(text: Condition, row: int) -> Condition:
    """One row of a condition."""
    extra = {name: value[row : row + 1] for name, value in text.extra.items()}
    return Condition(f"{text.id}-{row}", text.embeds[row : row + 1], extra)


class Rolls:
    """Rollouts of one policy and sampler with the tiny network.

    Args:
        policy: default: the last two blocks.
        sampler: default: one step, or as many as the policy needs.
        block: frames of a block.
        blocks: how many are rolled.
        layers: of the network. With one, keys do not depend on what the pass that wrote them has read.
        options: for ``Rollout``, such as ``noise`` or ``check``.
    """

    def __init__(
        self, policy: CachePolicy | None = None, sampler: Sampler | None = None, block: int = 3, blocks: int = 8,
        layers: int = 1, **options: Any,
    ) -> None:  # fmt: skip
        self.backbone, self.block, self.blocks = network(block, layers), block, blocks
        policy = policy or Window(2)
        steps = policy.denoising_steps
        sampler = sampler or FewStep([1000 * (1 - n / steps) for n in range(steps)], shift=1.0)
        options.setdefault("noise", IndependentNoise())
        options.setdefault("combine", BlendBranches() if policy.branches > 1 else None)
        if policy.reencodes:
            options.setdefault("encode", _not_started)
        self.rollout = Rollout(self.backbone, policy, sampler, **options)
        self.branches = sampler.guidance_branches

    def start(self, text: Any = None, samples: Sequence[int] = (0,), blocks: int | None = None, **more: Any) -> Any:
        """A rollout in progress."""
        text = condition(len(samples)) if text is None else text
        rows = condition(max(samples) + 1, "negative").embeds[list(samples)]
        negative = Condition("negative", rows) if "negative" in self.branches else None
        frames = (blocks or self.blocks) * self.block
        run = self.rollout(text, frames, seed=3, samples=samples, negative=negative, **more)
        if run.passes.encode is _not_started:  # there are no pixels: other latents, which depend on the finished ones
            run.passes.encode = lambda frame: 0.9 * run.passes.finished[frame]
        return run

    def blocks_of(self, *arguments: Any, **named: Any) -> list[Tensor]:
        """The latents of every block."""
        return [block.latents for block in self.start(*arguments, **named)]

    def cut(self, kv: bool) -> Iterable[tuple[int, State]]:
        """The number of blocks and the state after each but the last."""
        run = self.start()
        for count, _ in enumerate(run, 1):
            if count < self.blocks:
                yield count, run.state_dict(kv=kv)


def _not_started(frame: int) -> Tensor:
    """A placeholder for an encoder until a rollout starts."""
    raise RuntimeError(f"Frame {frame} is encoded before a rollout has started.")
