"""FreqForcing: plans by number, the filter by direct sums, rollouts by brute force, resuming, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from brute import BruteMemory, check_rollout
from rollforge_freq import FreqForcing, LowPassBlend
from torch import Tensor
from toy_backbone import BLOCK, TOKENS, Toy, condition

from rollforge.errors import UserError
from rollforge.memory.base import Now
from rollforge.policies import RollingSink, Window
from rollforge.positions import Rope
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep
from rollforge.spec import ModelSpec, Phase, Step
from rollforge.testing import check_combine, check_plans, check_policy, check_resume
from rollforge.testing.tiny import Rolls


@pytest.mark.parametrize("block", [3, 1])
def test_plans_of_a_thousand_blocks_equal_a_simulation(block: int) -> None:
    policy = FreqForcing(Window(6 * 3 // block))

    def expected(step: Step) -> tuple[list[tuple[int, int]], int]:
        s, entries = step.start, [(frame, frame) for frame in range(max(0, step.start - 18), step.start)]
        anchored = step.phase is Phase.DENOISE and step.level < 2 and s >= 21
        branches = {(frame, time): run.branch for run in policy.plan(step).segments for frame, time in run.entries()}
        second = [(3 * n, s - 24 + n) for n in range(6)] if anchored else []
        assert branches == {**dict.fromkeys(entries, 0), **dict.fromkeys(second, 1)}
        return entries + second, s

    check_plans(policy, expected, block=block)


def low_passed(x: Tensor, grid: tuple[int, int, int], sigma: float) -> Tensor:
    """The filter of ``[B, tokens, ...]`` as a sum over all tokens, for each of them, in float64."""
    weights = torch.ones(1, 1, dtype=torch.float64)
    for n in grid:  # a Gaussian of several frequencies is a product of Gaussians
        waves = [f / n if f <= (n - 1) // 2 else f / n - 1 for f in range(n)]
        kernel = [
            sum(math.exp(-(f**2) / (2 * sigma**2)) * math.cos(2 * math.pi * f * shift) for f in waves) / n
            for shift in range(n)
        ]
        axis = torch.tensor([[kernel[(row - column) % n] for column in range(n)] for row in range(n)]).double()
        weights = torch.kron(weights, axis)
    return torch.einsum("ij,bj...->bi...", weights, x.double())


@pytest.mark.parametrize(("height", "width", "frames"), [(4, 6, 3), (2, 2, 1), (6, 8, 4)])
def test_the_filter_equals_direct_sums(height: int, width: int, frames: int) -> None:
    spec = ModelSpec(1, height, width, (2, 2), 1, 2, 4, frames, frames, frames, 4.0)
    grid = (frames, height // 2, width // 2)
    local, anchored = torch.randn(2, 2, math.prod(grid), 2, 4, generator=torch.Generator().manual_seed(1))
    made = LowPassBlend(0.6, 0.125)([local, anchored], 0, spec, Now(range(frames), range(frames)))
    torch.testing.assert_close(made.double(), local + 0.6 * low_passed(anchored - local, grid, 0.125))
    both = [local.bfloat16(), anchored.bfloat16()]
    half = LowPassBlend()(both, 0, spec, Now())
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.float(), made, rtol=0.05, atol=0.05)


def test_a_constant_difference_passes_and_a_fast_one_does_not() -> None:
    spec = ModelSpec(1, 8, 8, (1, 1), 1, 1, 2, 1, 1, 1, 4.0)
    local = torch.zeros(1, 64, 1, 2)
    chess = (torch.arange(64) // 8 + torch.arange(64)) % 2 * 2.0 - 1
    constant = LowPassBlend()([local, local + 5], 0, spec, Now())
    fast = LowPassBlend()([local, local + chess[None, :, None, None]], 0, spec, Now())
    torch.testing.assert_close(constant, torch.full_like(local, 3.0))
    assert fast.abs().max() < 1e-6


def test_a_rollout_equals_brute_force_alone_in_a_batch_and_resumed() -> None:
    rope, toy = Rope(), Toy(positions=Rope())
    policy = FreqForcing(Window(1), anchors=(0, 3), steps=(1,), horizon=5)

    def turn(layer: int, x: Tensor, times: Any, now: Now) -> Tensor:
        return rope.turn(x, rope.place(toy.spec, times))

    def combine(outputs: list[Tensor]) -> Tensor:
        if len(outputs) == 1:
            return outputs[0]
        local, anchored = outputs
        return (local + 0.6 * low_passed(anchored - local, (BLOCK, 2, 2), 0.125)).float()

    rollout = Rollout(toy, policy, FewStep((1000, 500), shift=1.0, context_noise=20.0), combine=LowPassBlend())
    check_rollout(rollout, condition, BruteMemory(TOKENS, BLOCK, turn=turn, combine=combine), 12)


def test_policy_and_combine_pass_the_kit() -> None:
    check_policy(FreqForcing(Window(2), anchors=(0, 2), steps=(1,), horizon=3), blocks=100)
    check_combine(LowPassBlend())


def test_another_local_policy_resumes() -> None:
    policy = FreqForcing(RollingSink(2, 1), anchors=(1, 4), horizon=9)
    check_resume(policy, blocks=6, switches=[3], combine=LowPassBlend())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: FreqForcing(anchors=()), r"anchors=\[\]"),
        (lambda: FreqForcing(anchors=(3, 0)), r"anchors=\[3, 0\].*rise"),
        (lambda: FreqForcing(anchors=(0, 21)), r"anchors=\[0, 21\].*before the horizon"),
        (lambda: FreqForcing(steps=()), r"steps=\[\] .* expected one step or more"),
        (lambda: LowPassBlend(sigma=0), "sigma must be a number above 0"),
        (
            lambda: Rolls(FreqForcing(), combine=None).start(),
            "FreqForcing have 2 branches, and no part of kind combine",
        ),
        (
            lambda: Rolls(FreqForcing(), FewStep((1000,)), combine=LowPassBlend()).start(),
            "FreqForcing changes its plans in denoising step 2, and the sampler FewStep has 1",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_block(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make()
