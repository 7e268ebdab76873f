"""Commit passes that read the newest frames only, around policies of all kinds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rollforge_commit import CommitRecent

from rollforge.budget.frames import held
from rollforge.errors import UserError
from rollforge.policies import AttentionSink, CachePolicy, LongLive, RollingSink, SlidingIndices, Window
from rollforge.spec import Capacity, Phase, ReadPlan, Step
from rollforge.testing import check_plans, check_policy, check_resume
from rollforge.testing.tiny import Rolls

Read = tuple[list[tuple[int, int]], int]


class Relative(Window):
    """The last blocks at times 0, 1, 2 ..., so that every frame moves."""

    def plan(self, step: Step) -> ReadPlan:
        return ReadPlan.contiguous([range(max(0, step.start - self.visible(step.block)), step.start)])

    def moves(self, start: int, block: int) -> frozenset[int]:
        return self.live(start, block)

    def capacity(self, block: int) -> Capacity:
        return Capacity(self.visible(block), self.visible(block))


def by_hand(
    block: int, context: int, frames: int, once_full: bool, denoise: Callable[[int], Read]
) -> Callable[[Step], Read]:
    """What a pass reads: what ``denoise`` says for the first frame of a block, or the newest frames, counted."""

    def read(step: Step) -> Read:
        s, (plan, query) = step.start, denoise(step.start)
        if step.phase is Phase.DENOISE or (once_full and s < context * block):
            return plan, query
        return [(s - age, query - age) for age in range(1, frames - block + 1) if age <= s], query

    return read


def rolling_sink(s: int) -> Read:
    """K = 6, S = 5 and blocks of 3."""
    lap, offset = [*range(18)], [*range(18), *reversed(range(18))]
    rolled = [(offset[t % 36], t) for t in range(max(0, s - 18), s - 3)]
    return ([*rolled, *((t, t) for t in range(s - 3, s))] if s > len(lap) else [(t, t) for t in range(s)]), s


def relative(s: int) -> Read:
    """Two blocks of 3 at times from 0 on."""
    return [(frame, time) for time, frame in enumerate(range(max(0, s - 6), s))], min(s, 6)


@pytest.mark.parametrize("once_full", [True, False])
@pytest.mark.parametrize("frames", [3, 6, 8, 21, 24])
def test_a_thousand_blocks_of_rolling_sink(frames: int, once_full: bool) -> None:
    expected = by_hand(3, 6, frames, once_full, rolling_sink)
    check_plans(CommitRecent(RollingSink(6, 5), frames, once_full), expected)


@pytest.mark.parametrize("frames", [3, 6, 12])
def test_a_thousand_blocks_of_a_policy_that_moves_every_frame(frames: int) -> None:
    check_plans(CommitRecent(Relative(2), frames), by_hand(3, 2, frames, True, relative))


def test_it_passes_the_kit() -> None:
    check_policy(CommitRecent(LongLive(2, 1), 6), blocks=100)


@pytest.mark.parametrize(("inside", "frames"), [(LongLive(2, 1), 9), (Relative(2), 9)])
def test_it_resumes_in_both_modes(inside: CachePolicy, frames: int) -> None:
    check_resume(CommitRecent(inside, frames, once_full=False), blocks=7, switches=(4,))


def test_rolling_sink_needs_no_more_memory_with_six_frames_and_more_with_21() -> None:
    plain, six, all_real = (
        held(policy, 3, 600, 1, False, None)
        for policy in (RollingSink(), CommitRecent(RollingSink(), 6), CommitRecent(RollingSink(), 21))
    )
    assert (six.view, six.raw, six.saved) == (plain.view, plain.raw, plain.saved)
    assert sum(all_real.saved) == sum(plain.saved) + 15  # frames


def test_the_capacity_counts_the_frames_that_are_added() -> None:
    assert CommitRecent(Relative(2), 9).capacity(3) == Capacity(6, 6)
    assert CommitRecent(Relative(2), 15).capacity(3) == Capacity(12, 12)
    assert CommitRecent(AttentionSink(6, 5), 9).capacity(3) is None


def test_other_phases_read_what_the_policy_reads() -> None:
    inside = LongLive(3, 1)
    step = Step(9, 27, 3, Phase.RECACHE, count=9)
    assert CommitRecent(inside, 6).plan(step) == inside.plan(step)


def test_fewer_frames_than_a_block_are_refused_before_the_first_block() -> None:
    with pytest.raises(UserError, match=r"CommitRecent got frames=2, .* 3 frames, .* raise frames to 3 or more"):
        Rolls(CommitRecent(SlidingIndices(2, 1), 2)).start()
    with pytest.raises(UserError, match=r"CommitRecent.frames must be a whole number of 1 or more, not 0"):
        CommitRecent(Window(), 0)
