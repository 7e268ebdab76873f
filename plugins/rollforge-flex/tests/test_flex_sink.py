"""The sink: plans frame by frame against an independent list, and rollouts against dense attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from brute import BruteMemory, check_passes
from rollforge_flex import InferenceSink
from torch import Tensor
from toy_backbone import BLOCK, TOKENS, Toy, condition

from rollforge.errors import UserError
from rollforge.memory.base import Now
from rollforge.policies import AttentionSink, CachePolicy, LongLive, RollingSink, SlidingIndices, Window
from rollforge.positions import FixedPositions, Rope
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep
from rollforge.spec import Capacity, ReadPlan, Step
from rollforge.testing import check_plans, check_policy

INDICES: Any = ["static", "slid"]
FEW = FewStep([1000, 500], shift=1.0)


class Relative(CachePolicy):
    """The last blocks at time indices counted from 0."""

    def plan(self, step: Step) -> ReadPlan:
        seen = range(max(0, step.start - 2 * step.block), step.start)
        return ReadPlan.of(((frame, time) for time, frame in enumerate(seen)), len(seen))

    def live(self, start: int, block: int) -> frozenset[int]:
        return frozenset(range(max(0, start - 2 * block), start))

    def visible(self, block: int) -> int:
        return 2 * block

    def capacity(self, block: int) -> Capacity:
        return Capacity(2 * block, 2 * block)


POLICIES = [Window(2), AttentionSink(3, 1), SlidingIndices(3, 1), RollingSink(3, 2), LongLive(3, 1), Relative()]


@pytest.mark.parametrize("indices", INDICES)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda each: type(each).__name__)
def test_plans_of_a_thousand_blocks(policy: CachePolicy, indices: Any) -> None:
    sink = 7

    def expected(step: Step) -> tuple[list[tuple[int, int]], int]:
        inner = policy.plan(step)
        read = [pair[0] for pair in inner.entries()]
        absent = [frame for frame in range(sink) if frame < step.start and frame not in read]
        if indices == "static":
            return [*((frame, frame) for frame in absent), *inner.entries()], inner.query
        oldest = min([inner.query] + [pair[1] for pair in inner.entries()])
        slid = [(frame, oldest - len(absent) + n) for n, frame in enumerate(absent)]
        return [*slid, *inner.entries()], inner.query

    check_plans(InferenceSink(policy, sink, indices), expected)


def test_with_a_window_it_is_the_built_in_policy_of_the_same_size() -> None:
    for index in range(40):
        step, recent = Step.of(index, 3), Window(4)
        for indices, built_in in (("static", AttentionSink(6, 2)), ("slid", SlidingIndices(6, 2))):
            plan = InferenceSink(recent, 6, indices).plan(step)  # type: ignore[arg-type]
            assert plan.entries() == built_in.plan(step).entries()


@pytest.mark.parametrize("indices", INDICES)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda each: type(each).__name__)
def test_rollout_equals_dense_attention_over_the_plan(policy: CachePolicy, indices: Any) -> None:
    backbone, rope = Toy(positions=Rope()), Rope()
    rollout = Rollout(backbone, InferenceSink(policy, 3, indices), FEW)

    def turn(layer: int, x: Tensor, times: Sequence[float], now: Now) -> Tensor:
        return rope.turn(x, rope.place(backbone.spec, times))

    check_passes(rollout, condition(1), BruteMemory(TOKENS, BLOCK, turn=turn), 12)


def test_only_frames_that_may_move_are_kept_raw() -> None:
    assert InferenceSink(Window(2), 3).moves(30, 3) == frozenset()
    assert InferenceSink(Window(2), 3, "slid").moves(30, 3) == {0, 1, 2}
    assert InferenceSink(Relative(), 2).moves(30, 3) == {0, 1, *range(24, 30)}
    assert InferenceSink(Relative(), 2).capacity(3) == Capacity(8, 8)
    assert InferenceSink(Window(2), 2).capacity(3) is None


def test_it_passes_the_kit() -> None:
    check_policy(InferenceSink(Window(1), 2, "slid"), blocks=100)


def test_arguments_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UserError, match=r"InferenceSink.sink must be a whole number of 1 or more, not 0."):
        InferenceSink(Window(2), 0)
    with pytest.raises(UserError, match=r"InferenceSink.indices must be one of 'static', 'slid', not 'own'."):
        InferenceSink(Window(2), 3, "own")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"InferenceSink got sink=6, but the backbone's window is 6 latent frames"):
        Rollout(Toy(positions=Rope()), InferenceSink(Window(2), 6), FEW)(condition(0), 6)
    with pytest.raises(UserError, match=r"FixedPositions cannot move a frame"):
        Rollout(Toy(positions=FixedPositions()), InferenceSink(Window(2), 2, "slid"), FEW)(condition(0), 16)
