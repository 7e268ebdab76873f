"""LongLive 2, frame by frame, against a plain simulation of its shots."""

from __future__ import annotations

import random

import pytest
from rollforge_longlive import LongLive2

from rollforge.errors import UserError
from rollforge.policies import AttentionSink
from rollforge.spec import Cut, Event, Phase, PromptSwitch, Step
from rollforge.testing import check_plans, check_policy, check_resume


class Shots:
    """Blocks with the time indices that they were committed at: a sink, a pin, and a list that grows and is dropped."""

    def __init__(self, window: int, sink: int, offset: int, drop: bool, cuts: set[int]) -> None:
        self.sink, self.room, self.offset, self.drop, self.cuts = sink, window - 1 - sink, offset, drop, cuts
        self.entries: dict[int, list[tuple[int, int]]] = {}  # frames and time indices of every block
        self.held: list[int] = []
        self.pin = self.shot = 0

    def __call__(self, step: Step) -> tuple[list[tuple[int, int]], int]:
        index, cut = step.index, step.index in self.cuts
        if step.phase is Phase.DENOISE:
            self.shot += cut
            self.entries[index] = [(frame, frame + self.offset * self.shot) for frame in step.frames]
        seen, recent = list(range(min(self.sink, index))), [each for each in self.held if each >= self.sink]
        if not (cut and self.drop and step.phase is Phase.COMMIT):
            if self.sink <= self.pin < index and self.pin not in recent[-self.room :]:
                seen += [self.pin, *recent[len(recent) - (self.room - 1) :]]
            else:
                seen += recent[-self.room :]
        if step.phase is Phase.COMMIT:
            if cut:
                self.pin, self.held = index, [] if self.drop else self.held
            self.held = [*self.held, index]
        return [pair for each in seen for pair in self.entries[each]], self.entries[index][0][1]


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize(("window", "sink", "block", "offset"), [(4, 1, 8, 8), (6, 2, 3, 5), (7, 0, 1, 0)])
def test_a_thousand_blocks_read_what_a_simulation_of_shots_holds(
    window: int, sink: int, block: int, offset: int, drop: bool
) -> None:
    cuts = {*random.Random(window).sample(range(sink + 1, 1000), 120)}
    kinds: list[list[type[Event]]] = [[Cut], [Cut, PromptSwitch]]
    events = {index: kinds[index % 2] for index in cuts}
    expected = Shots(window, sink, offset, drop, cuts)
    check_plans(LongLive2(window - 1, sink, offset, drop), expected, block=block, events=events)


def test_one_shot_is_an_attention_sink_over_switches_too() -> None:
    def sink(step: Step) -> tuple[tuple[tuple[int, int], ...], int]:
        return AttentionSink(3, 1).plan(step).entries(), step.start

    switches: dict[int, list[type[Event]]] = {4: [PromptSwitch], 9: [PromptSwitch]}
    check_plans(LongLive2(), sink, block=8, blocks=40, events=switches)


def test_it_passes_the_kit() -> None:
    check_policy(LongLive2(), blocks=300)


@pytest.mark.parametrize("drop", [False, True])
def test_it_resumes_across_shots_with_and_without_keys(drop: bool) -> None:
    check_resume(LongLive2(drop_at_cut=drop), switches=(2,), events={2: (Cut, {}), 4: (Cut, {})})


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"^LongLive2 got sink_blocks=2 and context_blocks=3, .* to 4 or more, or"):
        LongLive2(3, 2)
