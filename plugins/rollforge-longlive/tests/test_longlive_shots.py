"""LongLive 2, frame by frame, against a plain simulation of its shots."""

from __future__ import annotations

import random
from typing import Any

import pytest
from brute import check_resume
from frame_ids import Read, passes
from rollforge_longlive import LongLive2

from rollforge.errors import UserError
from rollforge.policies import AttentionSink
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep
from rollforge.spec import Cut, Event, Phase, PromptSwitch
from rollforge.testing import check_policy
from rollforge.testing.tiny import condition, network


def simulated(window: int, sink: int, block: int, offset: int, drop: bool, cuts: set[int], blocks: int) -> list[Read]:
    """Blocks with the time indices that they were committed at: a sink, a pin, and a list that grows and is cut."""
    entries: dict[int, list[tuple[int, int]]] = {}  # the frames and times of every block
    held, pin, shot, made = list[int](), 0, 0, list[Read]()
    for index in range(blocks):
        start, cut = index * block, index in cuts
        shot += cut
        entries[index] = [(start + n, start + n + offset * shot) for n in range(block)]
        query = entries[index][0][1]

        def read(phase: Phase, seen: list[int], start: int = start, query: int = query) -> Read:
            frames = range(start, start + block)
            return Read(phase, frames, [pair for each in seen for pair in entries[each]], query)

        front = list(range(min(sink, index)))
        recent = [each for each in held if each >= sink]
        room = window - 1 - sink
        if sink <= pin < index and pin not in recent[-room:]:
            seen = [*front, pin, *recent[len(recent) - (room - 1) :]]
        else:
            seen = [*front, *recent[-room:]]
        made.append(read(Phase.DENOISE, seen))
        made.append(read(Phase.COMMIT, front if cut and drop else seen))
        if cut:
            pin, held = index, [] if drop else held
        held = [*held, index]
    return made


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize(("window", "sink", "block", "offset"), [(4, 1, 8, 8), (6, 2, 3, 5), (7, 0, 1, 0)])
def test_a_thousand_blocks_read_what_a_simulation_of_shots_holds(
    window: int, sink: int, block: int, offset: int, drop: bool
) -> None:
    cuts = {*random.Random(window).sample(range(sink + 1, 1000), 120)}
    kinds: list[list[type[Event]]] = [[Cut], [Cut, PromptSwitch]]
    events = {index: kinds[index % 2] for index in cuts}
    policy = LongLive2(window - 1, sink, offset, drop)
    expected = simulated(window, sink, block, offset, drop, cuts, blocks=1000)
    assert list(passes(policy, block, 1000, events)) == expected


def test_one_shot_is_an_attention_sink_and_switches_may_be_cuts() -> None:
    switches: dict[int, list[type[Event]]] = {4: [PromptSwitch], 9: [PromptSwitch]}
    assert list(passes(LongLive2(), 8, 40, switches)) == list(passes(AttentionSink(3, 1), 8, 40, {}))
    cuts: dict[int, list[type[Event]]] = {4: [Cut], 9: [Cut]}
    assert list(passes(LongLive2(cut_at_switch=True), 8, 40, switches)) == list(passes(LongLive2(), 8, 40, cuts))


def test_it_passes_the_kit() -> None:
    check_policy(LongLive2(), blocks=300)


@pytest.mark.parametrize("drop", [False, True])
def test_it_resumes_across_shots_with_and_without_keys(drop: bool) -> None:
    rollout = Rollout(network(layers=2), LongLive2(drop_at_cut=drop, cut_at_switch=True), FewStep((1000, 500)))
    texts: Any = {0: condition(), 6: condition(name="second"), 18: condition(name="third")}
    check_resume(rollout, texts, 27)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"^LongLive2 got sink_blocks=2 and context_blocks=3, .* to 4 or more, or"):
        LongLive2(3, 2)
