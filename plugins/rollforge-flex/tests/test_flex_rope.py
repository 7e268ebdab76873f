"""The rotary embedding: its properties, and rollouts against dense attention with tables made from scratch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from brute import BruteMemory, Turn, check_passes, stacked
from hypothesis import given, settings
from hypothesis import strategies as st
from rollforge_flex import FlexRope
from torch import Tensor
from toy_backbone import BLOCK, LAYERS, TOKENS, Toy, condition

from rollforge.errors import UserError
from rollforge.memory.base import Now
from rollforge.policies import AttentionSink, CachePolicy, LongLive, RollingSink, SlidingIndices, Window
from rollforge.positions import Rope
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep
from rollforge.spec import ModelSpec, ReadPlan, Segment, Step
from rollforge.testing import check_positions

WAN = ModelSpec(16, 60, 104, (2, 2), 30, 12, 128, 3, 21, 21, 4.0)
FEW = FewStep([1000, 500], shift=1.0)
HORIZON = 6  # of the toy network
SLOW = 2.0  # turns that no frequency of the toy network makes within its horizon, so that all are interpolated


def scaled(horizon: int, frames: int, pairs: int, alpha: float, beta: float) -> list[float]:
    """Temporal frequencies, one by one: for a plan whose largest time difference is ``frames``."""
    made = []
    for j in range(pairs):
        frequency = 10000.0 ** (-j / pairs)
        turns = horizon / (2 * math.pi / frequency)
        factor = horizon / frames if frames > horizon else 1.0
        if turns >= beta:
            share = 0.0
        elif turns <= alpha:
            share = 1.0
        else:
            share = (beta - turns) / (beta - alpha)
        made.append(frequency * (share * factor + 1 - share))
    return made


def step_and_plan(length: int, spec: ModelSpec = WAN) -> tuple[Step, ReadPlan]:
    """A block whose plan begins ``length`` frames before the block's last frame."""
    step = Step.of(100, spec.block)
    return step, ReadPlan((Segment(0, step.frames[-1] - length, 1),), step.start)


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(3, 5000), horizon=st.integers(1, 300), head_dim=st.sampled_from([8, 32, 64, 128]),
    limits=st.lists(st.floats(0.01, 3), min_size=2, max_size=2).map(sorted),
)  # fmt: skip
def test_frequencies_follow_the_span_of_the_plan(length: int, horizon: int, head_dim: int, limits: list[float]) -> None:
    spec = replace(WAN, head_dim=head_dim)
    alpha, beta = limits
    found = FlexRope(alpha, beta, horizon).frequencies(spec, *step_and_plan(length))
    pairs = head_dim // 2 - 2 * (head_dim // 6)
    expected = torch.tensor(scaled(horizon, length, pairs, alpha, beta), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("length", [22, 100, 1200])
def test_frequencies_that_turn_within_the_horizon_are_untouched_and_slow_ones_interpolated(length: int) -> None:
    plain = Rope().temporal(WAN)
    found = FlexRope().frequencies(WAN, *step_and_plan(length))
    turns = 21 * plain / (2 * math.pi)
    assert torch.equal(found[turns >= 1], plain[turns >= 1])
    assert (turns >= 1).sum() == 3
    torch.testing.assert_close(found[turns <= 0.5], plain[turns <= 0.5] * 21 / length, rtol=1e-12, atol=0)
    between = (turns > 0.5) & (turns < 1)
    assert between.sum() == 2
    assert (found[between] < plain[between]).all()
    assert (found[between] > plain[between] * 21 / length).all()
    assert (found.diff() < 0).all()  # frequencies keep their order


def test_within_the_horizon_and_in_training_it_is_plain_rotary_embedding() -> None:
    flex, plain, times = FlexRope(), Rope(), (0, 7, 20)
    for length in (3, 20, 21):
        asked = step_and_plan(length)
        assert torch.equal(flex.frequencies(WAN, *asked), plain.temporal(WAN))
        assert flex.key(WAN, *asked) == flex.key(WAN, *step_and_plan(3)) != flex.key(WAN, *step_and_plan(22))
    for one, other in zip(flex.place(WAN, times), plain.place(WAN, times), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(flex.frequencies(WAN, *step_and_plan(22)), plain.temporal(WAN))


def test_the_frames_of_a_joint_pass_count() -> None:
    step = replace(Step.of(0, 3), count=30)
    assert torch.equal(
        FlexRope().frequencies(WAN, step, ReadPlan((), 0)), FlexRope().frequencies(WAN, *step_and_plan(29))
    )


def turn_from_scratch(alpha: float, beta: float, horizon: int) -> Turn:
    """Complex multiplication by angles that are made for each call, from nothing but the times of its plan."""

    def turn(layer: int, x: Tensor, times: Sequence[float], now: Now) -> Tensor:
        assert now.plan is not None
        all_times = [*now.times, *(time for _, time in now.plan.entries())]
        length = max(all_times) - min(all_times)
        axes = scaled(horizon, length, 2, alpha, beta), [1.0], [1.0]  # of 4 pairs, 2 turn with time
        places = [(time, row, column) for time in times for row in (0, 1) for column in (0, 1)]
        angles = [[place[n] * f for n, axis in enumerate(axes) for f in axis] for place in places]
        turned = torch.polar(torch.ones(1, dtype=torch.float64), torch.tensor(angles, dtype=torch.float64))
        pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turned[:, None]).flatten(-2).float()

    return turn


POLICIES = [Window(4), AttentionSink(2, 1), SlidingIndices(4, 2), RollingSink(4, 3), LongLive(3, 1)]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda each: type(each).__name__)
def test_rollout_equals_dense_attention_with_tables_from_scratch(policy: CachePolicy) -> None:
    limits = (0.5, 1.0) if type(policy) is AttentionSink else (SLOW, SLOW)
    rollout = Rollout(Toy(positions=FlexRope(*limits)), policy, FEW)
    brute = BruteMemory(TOKENS, BLOCK, turn=turn_from_scratch(*limits, HORIZON))
    check_passes(rollout, stacked([condition(0), condition(1)]), brute, 14)


class Counting(FlexRope):
    """Counts the frames whose queries or keys it turns."""

    turned = 0

    def turn(self, x: Tensor, placement: tuple[Tensor, Tensor]) -> Tensor:
        type(self).turned += x.shape[0] * x.shape[1] // TOKENS  # layers of one sample, or one
        return super().turn(x, placement)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("horizon", [6, 100])
def test_cached_keys_are_rotated_again_exactly_when_the_factor_changes(policy: CachePolicy, horizon: int) -> None:
    Counting.turned, blocks = 0, 12
    list(Rollout(Toy(positions=Counting(SLOW, SLOW, horizon)), policy, FEW)(condition(0), blocks * BLOCK))

    expected, held, before = 0, set[tuple[int, int]](), 0.0
    for index in range(blocks):
        plan = policy.plan(Step.of(index, BLOCK))
        times = [plan.query, plan.query + BLOCK - 1, *(time for _, time in plan.entries())]
        factor = min(1.0, horizon / max(1, max(times) - min(times)))
        if factor != before:
            held, before = set(), factor
        expected += len(set(plan.entries()) - held)
        held = set(plan.entries())
        passes = 3 if index < blocks - 1 else 2  # nothing reads the last block
        expected += passes * 2 * BLOCK  # queries and keys of the block itself
    assert Counting.turned == LAYERS * expected


def test_it_passes_the_kit() -> None:
    check_positions(FlexRope())
    check_positions(FlexRope(SLOW, SLOW, horizon=3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 2.0}, "FlexRope got alpha=2 and beta=1; alpha must be at most beta."),
        ({"alpha": -1}, "FlexRope.alpha must be a number of 0 or more, not -1."),
        ({"beta": 0}, "FlexRope.beta must be a number above 0, not 0."),
        ({"horizon": 0}, "FlexRope.horizon must be a whole number of 1 or more, not 0."),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(UserError) as error:
        FlexRope(**arguments)  # type: ignore[arg-type]
    assert str(error.value) == message
