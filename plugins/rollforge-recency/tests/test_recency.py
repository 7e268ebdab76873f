"""Recency Forcing and its read locus: plans by number, rollouts by brute force, resuming, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from brute import BruteMemory, check_rollout
from rollforge_recency import ReadLocus, RecencyForcing
from torch import Tensor
from toy_backbone import BLOCK, TOKENS, Toy, condition

from rollforge.errors import UserError
from rollforge.memory.base import Now
from rollforge.policies import CachePolicy, RollingSink, Window
from rollforge.positions import Rope
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep
from rollforge.spec import Phase, Step
from rollforge.testing import check_plans, check_policy, check_resume
from rollforge.testing.tiny import Rolls

SMALL = {"recent_frames": 4, "sink_frames": 2, "chunk_frames": 2}
Read = dict[int, tuple[int, float]]  # frame -> time index and bias


def simulated(start: int, level: int | None, locus: bool, layer: int, recent: int = 18) -> Read:
    """What a block reads in layer ``layer`` of 30, frame by frame. ``level`` is None in passes that commit."""
    read: Read = {}
    for frame in range(max(3, start - recent), start):
        chunk = (start - 1 - frame) // 3  # 0 is the newest
        slope = min(chunk / 4, 1.0)
        bias = 0.0 if level is None or not chunk else -4 * math.exp(math.log(slope) * 0.1 * 2.0 ** (level + 1))
        read[frame] = (frame, round(bias, 9))
    oldest = min(read, default=min(3, start))
    for frame in range(min(3, start)):
        read[frame] = (oldest - min(3, start) + frame, 0.0)
    if locus and level == 3 and layer >= 20:
        far = range(4, oldest, 4)[-6:]
        before = min(time for time, _ in read.values()) if read else 0
        for place, frame in enumerate(reversed(far), 1):
            read[frame] = (before - place, round(math.log(4), 9))
    return read


@pytest.mark.parametrize(("locus", "block", "blocks"), [(False, 3, 60), (True, 3, 1000), (True, 1, 100)])
def test_plans_of_a_thousand_blocks_equal_a_simulation_frame_by_frame(locus: bool, block: int, blocks: int) -> None:
    policy: CachePolicy = ReadLocus() if locus else RecencyForcing()

    def expected(step: Step) -> tuple[list[tuple[int, int]], int]:
        level = step.level if step.phase is Phase.DENOISE else None
        plan, entries = policy.plan(step).of_depth(30), set()
        for layer in (19, 20) if level == 3 else (20,):
            runs = [run for run in plan.segments if run.layers is None or layer in run.layers]
            ours = {frame: (time, round(run.bias, 9)) for run in runs for frame, time in run.entries()}
            read = simulated(step.start, level, locus, layer)
            assert ours == read, (step, layer)
            assert len(read) <= policy.visible(step.block)
            entries |= {(frame, time) for frame, (time, _) in read.items()}
        return list(entries), step.start

    check_plans(policy, expected, block=block, blocks=blocks)


def test_the_bias_has_the_values_of_the_formula() -> None:
    """-4 * (1/4) ** g for the second chunk, with g = 0.2, 0.4, 0.8 and 1.6 in the four steps."""
    second = [_biases(level)[2] for level in range(4)]
    assert second == pytest.approx([-3.03143, -2.29740, -1.31951, -0.43528], abs=1e-5)
    assert _biases(0) == pytest.approx({1: 0, 2: -3.03143, 3: -3.48220, 4: -3.77635, 5: -4, 6: -4}, abs=1e-5)
    assert _biases(7) == _biases(3)  # a sampler of more steps


def _biases(level: int) -> dict[int, float]:
    segments = RecencyForcing().plan(Step.of(20, 3, level=level)).segments
    return {(60 - run.content) // 3: run.bias for run in segments if run.content >= 42}


@pytest.mark.parametrize(
    "policy",
    [
        ReadLocus(RecencyForcing(**SMALL), 2, 2, steps=(1, 2), layers=(0.5, 1.0)),
        ReadLocus(Window(1), 2, 2, bias=-1.0, steps=(2,), layers=(0.0, 0.5)),
    ],
    ids=["recency", "window"],
)  # fmt: skip
def test_a_rollout_equals_brute_force_alone_in_a_batch_and_resumed(policy: CachePolicy) -> None:
    rope = Rope()

    def turn(layer: int, x: Tensor, times: Sequence[float], now: Now) -> Tensor:
        return rope.turn(x, rope.place(toy.spec, times))

    toy = Toy(positions=Rope())
    rollout = Rollout(toy, policy, FewStep((1000, 500), shift=1.0, context_noise=20.0))
    check_rollout(rollout, condition, BruteMemory(TOKENS, BLOCK, turn=turn), 10)


@pytest.mark.parametrize(
    "policy", [RecencyForcing(6, 2), ReadLocus(Window(2), 2, 2, steps=(1,))], ids=["bias", "locus"]
)
def test_both_policies_pass_the_kit(policy: CachePolicy) -> None:
    check_policy(policy, blocks=100)


def test_a_read_locus_around_another_policy_resumes() -> None:
    check_resume(ReadLocus(RollingSink(2, 1), 2, 2, steps=(2,)), blocks=6, switches=[3])


def test_without_its_parameters_nothing_is_left_of_the_method() -> None:
    plain = RecencyForcing(strength=0).plan(Step.of(20, 3))
    assert all(run.bias == 0 for run in plain.segments)
    step = replace(Step.of(20, 3), level=2)
    assert ReadLocus().plan(step) == RecencyForcing().plan(step)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: RecencyForcing(recent_frames=0), "recent_frames must be a whole number of 1 or more, not 0"),
        (lambda: RecencyForcing(strength=-1), "strength must be a number of 0 or more"),
        (lambda: ReadLocus(far_frames=0), "far_frames must be a whole number of 1 or more"),
        (lambda: ReadLocus(steps=()), r"steps=\[\] and .* expected one step or more"),
        (lambda: ReadLocus(layers=(1.0, 0.5)), r"layers=\[1.0, 0.5\]; .* of which the second is larger"),
        (lambda: Rolls(RecencyForcing(2)).start(), "newest 2 frames, fewer than the network's block of 3"),
        (
            lambda: Rolls(ReadLocus(), FewStep((1000, 500))).start(),
            "ReadLocus changes its plans in denoising step 4, and the sampler FewStep has 2",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_the_first_block(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make()
