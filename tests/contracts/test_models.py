"""What a backbone, a condition and a sampler may be, by small components that need it, against brute force."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import pytest
import torch
import toy_backbone
from brute import BruteMemory, check_rollout
from torch import Tensor
from toy_backbone import BLOCK, TOKENS, Toy, condition

from rollforge.backbones.base import Condition
from rollforge.errors import UserError
from rollforge.policies import Window
from rollforge.positions import Rope
from rollforge.rollout import Rollout
from rollforge.samplers import Euler, Finished, Job, Pass, Passes, Sampler
from rollforge.spec import ReadPlan, Segment, Step

FRAMES = 10
SAMPLER = Euler(steps=2, shift=1.0, context_noise=20.0)


def acting(sample: int) -> Condition:
    """An action for each frame of the video; numbers above 256 have no bfloat16 of their own."""
    generator = torch.Generator().manual_seed(sample)
    return replace(condition(sample), extra={"actions": torch.randint(256, 300, (1, 2 * FRAMES), generator=generator)})


def test_a_condition_has_an_action_for_every_frame() -> None:
    rollout = Rollout(Toy(extra="actions"), Window(2), SAMPLER)
    check_rollout(rollout, acting, BruteMemory(TOKENS, BLOCK), FRAMES)
    half = acting(0).to(dtype=torch.bfloat16)
    assert half.embeds.dtype == torch.bfloat16
    assert torch.equal(half.extra["actions"], acting(0).extra["actions"])


def test_an_odd_head_dim_is_refused_by_rotary_positions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy_backbone, "DIM", 7)
    check_rollout(Rollout(Toy(), Window(2), SAMPLER), condition, BruteMemory(TOKENS, BLOCK), FRAMES)
    message = "head_dim is 7, and rotary positions need an even number; choose other positions, such as NoPositions"
    with pytest.raises(UserError, match=message):
        Rollout(Toy(positions=Rope()), Window(2), SAMPLER)(condition(0), FRAMES)


@pytest.mark.parametrize("first", [1, 3])
def test_the_first_block_may_have_another_size(first: int) -> None:
    backbone = Toy(first_block=first)
    rollout = Rollout(backbone, Window(2), SAMPLER)
    blocks = [(block.index, block.start, block.latents.shape[1]) for block in rollout(condition(0), first + 2 * BLOCK)]
    assert blocks == [(0, 0, first), (1, first, BLOCK), (2, first + BLOCK, BLOCK)]
    check_rollout(rollout, condition, BruteMemory(TOKENS, BLOCK), first + 4 * BLOCK)


class Joint(Sampler):
    """Two blocks at a time, each at a noise level of its own; the first does not see the second."""

    timesteps = (1000.0, 500.0)

    def __init__(self) -> None:
        self.waiting: Tensor | None = None  # the second block, while the first is committed

    def run(self, job: Job) -> Passes:
        steps = iter(job.steps)
        for step in steps:
            if self.waiting is None:
                latents, self.waiting = yield from self.denoise(step, replace(step, index=step.index + 1), job)
            else:
                latents, self.waiting = self.waiting, None
            yield Finished(step, latents)
            yield from self.commit(step, latents, job.noise)

    def denoise(self, first: Step, second: Step, job: Job) -> Generator[Pass, Tensor, tuple[Tensor, Tensor]]:
        second = replace(second, start=first.frames.stop)
        x = torch.cat([job.noise(first, 0), job.noise(second, 0)], dim=1)
        levels = torch.tensor([500.0] * BLOCK + [1000.0] * BLOCK).expand(len(x), -1)
        seen = tuple(Segment(n, n, 1) for n in range(max(0, first.start - 4), first.start))
        flow = yield Pass(replace(first, count=2 * BLOCK), x, levels, plan=ReadPlan(seen, first.start, causal=True))
        one, other = (x - (levels / 1000)[..., None, None, None] * flow).split(BLOCK, dim=1)
        return one, other


def test_blocks_that_are_denoised_together_may_see_each_other_in_order() -> None:
    rollout = Rollout(Toy(), Window(2), Joint())
    check_rollout(rollout, condition, BruteMemory(TOKENS, BLOCK), 12)
