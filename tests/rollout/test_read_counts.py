"""Blocks are counted by what they read, once each, also over an interruption."""

from __future__ import annotations

import pytest

from rollforge.policies import AttentionSink, CachePolicy, LongLive, RollingSink, SlidingIndices, Window
from rollforge.rollout.read_counts import features
from rollforge.spec import Phase, ReadPlan, Segment, Step
from rollforge.testing.tiny import Rolls, condition

BLOCKS = 8


class Marked(Window):
    """A bias in some layers, and a commit that sees nothing."""

    def plan(self, step: Step) -> ReadPlan:
        if step.phase is Phase.COMMIT or not step.start:
            return ReadPlan((), step.start)
        return ReadPlan((Segment(step.start - 1, step.start - 1, 1, bias=-1.0, layers=range(1)),), step.start)


COUNTS: dict[str, tuple[CachePolicy, dict[str, int]]] = {
    "window": (Window(2), {}),
    "sink": (AttentionSink(2, 1), {"older": 5}),
    "slid": (SlidingIndices(2, 1), {"older": 5, "moved": 5}),
    "rolled": (RollingSink(2, 1), {"older": 4, "moved": 4}),  # block 3 reads frames 1 and 2, as the window does
    "reread": (LongLive(2, 1), {"older": 5, "reread": 1}),
    "marked": (Marked(1), {"biased": 7, "limited": 7, "commit": 6}),
}


@pytest.mark.parametrize("name", COUNTS)
def test_every_block_counts_once_for_what_it_reads(name: str) -> None:
    policy, expected = COUNTS[name]
    rolls = Rolls(policy, block=1, blocks=BLOCKS)
    text = {0: condition(), 4: condition(name="other")} if name == "reread" else condition()
    run = rolls.start(text)
    made = []
    for block in run:
        made.append(block.latents)
        if block.index == 4:
            states = [run.state_dict(kv) for kv in (True, False)]
    counts = {feature: count for feature, count in run.passes.read.counts.items() if count}
    expected = {"blocks": BLOCKS} | expected
    assert counts == expected  # the last block is not committed
    for state in states:
        again = rolls.start(text, state=state, finished=made[:5])
        list(again)
        assert again.passes.read.counts | {"commit": 0} == run.passes.read.counts | {"commit": 0}


def test_repeated_and_virtual_frames_are_seen() -> None:
    plan = ReadPlan.of([(0, 4), (0, 5), (-1, 6)], 7)
    assert set(features(Step(7, 7, 1), plan)) == {"older", "moved", "repeated", "virtual"}
    assert not set(features(Step(7, 7, 1), ReadPlan.of([(5, 0), (6, 1)], 2)))  # all shifted alike
