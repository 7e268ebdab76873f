"""A store of frame ids that forgets what the policy lets go, rolled for a thousand blocks without a model."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollforge.policies import AttentionSink, CachePolicy, RollingSink, SlidingIndices, Window
from rollforge.spec import Phase, Step

SETTINGS = [(6, 5), (6, 0), (6, 3), (3, 1), (1, 1), (2, 2)]


def policies(k: int, s: int) -> dict[CachePolicy, int]:
    """Each policy, and the most blocks that it may ever keep."""
    opening_and_recent = k if s == 0 else k + (k - s)
    return {Window(k): k, AttentionSink(k, s): k, SlidingIndices(k, s): k, RollingSink(k, s): opening_and_recent}


def read(policy: CachePolicy, step: Step) -> set[int]:
    return {content for content, _ in policy.plan(step).entries()}


def roll(policy: CachePolicy, size: int, blocks: int) -> int:
    """Rolls a store of frame ids that fails on a frame not in it; the most frames it held."""
    store: set[int] = set()
    most = 0
    for index in range(blocks):
        for phase in (Phase.DENOISE, Phase.COMMIT):
            lost = read(policy, Step.of(index, size, phase)) - store
            assert not lost, f"block {index} reads frames {sorted(lost)}, forgotten or not yet committed"
        store.update(Step.of(index, size).frames)
        live = policy.live((index + 1) * size, size)
        assert live <= store, f"after block {index} frames {sorted(live - store)} are asked for again"
        store &= live
        most = max(most, len(store))
    return most


@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize(("k", "s"), SETTINGS)
def test_a_bounded_store_serves_a_thousand_blocks(k: int, s: int, size: int) -> None:
    for policy, bound in policies(k, s).items():
        assert roll(policy, size, blocks=1000) == bound * size


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 8).flatmap(lambda k: st.tuples(st.just(k), st.integers(0, k))), st.integers(1, 4))
def test_live_is_what_later_blocks_read_and_nothing_else(chosen: tuple[int, int], size: int) -> None:
    k, s = chosen
    for policy in policies(k, s):
        plans = [read(policy, Step.of(index, size)) for index in range(6 * k + 4)]  # the wave repeats after 2K blocks
        for index in range(3 * k + 2):
            later = set().union(*plans[index:])
            assert policy.live(index * size, size) == {frame for frame in later if frame < index * size}


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 8).flatmap(lambda k: st.tuples(st.just(k), st.integers(0, k))), st.integers(1, 4))
def test_what_does_not_move_stays_where_it_was_first_shown(chosen: tuple[int, int], size: int) -> None:
    k, s = chosen
    for policy in policies(k, s):
        before: set[tuple[int, int]] = set()
        for index in range(6 * k + 4):
            step = Step.of(index, size)
            assert policy.moves(step.start, size) <= policy.live(step.start, size)
            plan, fresh = set(policy.plan(step).entries()), range(step.start - size, step.start)
            for content, _ in plan - before:
                assert content in fresh or content in policy.moves(step.start - size, size), (policy, index)
            before = plan


def test_rolling_sink_keeps_its_opening_raw_and_nothing_more() -> None:
    assert RollingSink(6, 5).moves(300, 3) == frozenset(range(18))
    assert len(RollingSink(6, 5).live(300, 3)) == 21
    assert Window(6).moves(300, 3) == AttentionSink(6, 5).moves(300, 3) == frozenset()


def test_the_simulation_notices_a_frame_that_was_let_go() -> None:
    class Forgetful(RollingSink):
        def live(self, start: int, block: int) -> frozenset[int]:
            return super().live(start, block) - {0}

    with pytest.raises(AssertionError, match=r"reads frames \[0\]"):
        roll(Forgetful(), 3, blocks=20)
