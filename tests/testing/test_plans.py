"""Plans against an independent function, and rollouts that are cut off, by the checks that packages use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from rollforge.errors import UserError
from rollforge.policies import AttentionSink, CachePolicy, LongLive, RollingSink, SlidingIndices, Window
from rollforge.spec import Cut, Event, PromptSwitch, ReadPlan, Step, Virtual
from rollforge.testing import CheckFailed, check_plans, check_resume
from rollforge.testing.tiny import Rolls

Read = tuple[Iterable[tuple[int, int]], int]


def two_blocks(step: Step) -> Read:
    return [(f, f) for f in range(max(0, step.start - 2 * step.block), step.start)], step.start


def sink_and_recent(shift: bool) -> Any:
    """Three blocks, the first of them a sink at its own times, or right before the others."""

    def expected(step: Step) -> Read:
        s, b = step.start, step.block
        seen = [*range(min(b, s)), *range(max(b, s - 2 * b), s)]
        times = range(s - len(seen), s) if shift else seen
        return zip(seen, times, strict=True), s

    return expected


def forwards_and_back(step: Step) -> Read:
    """Rolling Sink with K = 3 and S = 2: the opening forwards and backwards, then the last block."""
    opening = list(range(3 * step.block))
    lap = opening + opening[::-1]
    rolled = range(max(0, step.start - 3 * step.block), max(0, step.start - step.block))
    recent = range(max(0, step.start - step.block), step.start)
    return [*((lap[t % len(lap)], t) for t in rolled), *((t, t) for t in recent)], step.start


SOUND: dict[str, tuple[CachePolicy, Any]] = {
    "window": (Window(2), two_blocks),
    "sink": (AttentionSink(3, 1), sink_and_recent(shift=False)),
    "slid": (SlidingIndices(3, 1), sink_and_recent(shift=True)),
    "rolled": (RollingSink(3, 2), forwards_and_back),
}


@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("name", SOUND)
def test_the_built_in_policies_read_what_their_papers_say(name: str, block: int) -> None:
    check_plans(*SOUND[name], block=block)


def test_frames_that_a_switch_reads_again_are_there() -> None:
    check_plans(LongLive(3, 1), SOUND["sink"][1], blocks=40, events={2: [PromptSwitch], 21: [PromptSwitch]})


class Slid(SlidingIndices):
    """Has no raw keys of what it moves."""

    def moves(self, start: int, block: int) -> frozenset[int]:
        return frozenset()


class Averaging(Window):
    """Makes a frame of one that is not held raw."""

    def virtual(self, step: Step) -> Sequence[Virtual]:
        return [Virtual(-1, (step.start - 4,))] if step.start >= 6 else []


class Again(Window):
    def on_event(self, event: Event) -> Sequence[range]:
        return [range(3)] if isinstance(event, Cut) else ()


class Gone(Window):
    def live(self, start: int, block: int) -> frozenset[int]:
        return super().live(start, block) - {9}


BROKEN: dict[str, tuple[CachePolicy, Any, str]] = {
    "policy-plan": (Window(3), SOUND["window"][1], "Block 3 (denoise) reads"),
    "policy-moves": (Slid(3, 1), SOUND["slid"][1], "Block 4 (denoise) reads frame 0 at time 3, and only [0] is kept"),
    "policy-live": (Gone(2), SOUND["window"][1], "reads frame 9, which is forgotten"),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_policy_that_reads_something_else_is_told_so(rule: str) -> None:
    policy, expected, message = BROKEN[rule]
    with pytest.raises(CheckFailed) as failure:
        check_plans(policy, expected)
    assert failure.value.rule == rule
    assert message in str(failure.value)


@pytest.mark.parametrize(
    ("policy", "message"),
    [(Averaging(1), "is made of frame 2, which is not raw"), (Again(2), "frame 0 is read again, which is forgotten")],
)
def test_frames_that_are_made_or_read_again_must_be_there(policy: CachePolicy, message: str) -> None:
    expected = SOUND["window"][1] if isinstance(policy, Again) else lambda step: (
        [(f, f) for f in range(step.start) if f >= step.start - step.block], step.start,
    )  # fmt: skip
    with pytest.raises(CheckFailed, match=message):
        check_plans(policy, expected, events={8: [Cut]})


class Counting(Window):
    """Reads less after a cut, and forgets that it did."""

    def __init__(self, context_blocks: int, saves: bool) -> None:
        super().__init__(context_blocks)
        self.cut, self.saves = 10**9, saves

    def plan(self, step: Step) -> ReadPlan:
        seen = [
            frame for frame in sorted(self.live(step.start, step.block)) if frame >= self.cut or step.start < self.cut
        ]
        return ReadPlan.of(((frame, frame) for frame in seen), step.start)

    def on_event(self, event: Event) -> Sequence[range]:
        if isinstance(event, Cut):
            self.cut = event.step.start
        return ()

    def state_dict(self) -> dict[str, Any]:
        return {"cut": self.cut} if self.saves else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.cut = state.get("cut", self.cut)


def test_a_rollout_that_goes_on_equals_the_uninterrupted_one() -> None:
    check_resume(LongLive(2, 1), block=1, blocks=5, switches=[2, 3])
    check_resume(Counting(2, saves=True), block=1, blocks=4, events={3: (Cut, {})})
    with pytest.raises(CheckFailed, match=r"Cut after 3 of 5 .*, in block 3 the value"):
        check_resume(Counting(2, saves=False), block=1, blocks=5, events={2: (Cut, {})})


def test_a_policy_that_cannot_be_recomputed_is_only_saved() -> None:
    class Learning(Window):
        sees = ("latents",)

    check_resume(Learning(2), block=1, blocks=3)
    run = Rolls(Learning(2), block=1).start()
    next(run)
    with pytest.raises(UserError, match="learns from passes"):
        run.state_dict(kv=False)
