"""Infinity-RoPE, frame by frame, against a buffer that is written from the rules of the released program."""

from __future__ import annotations

import random

import pytest
from rollforge_infinity_rope import InfinityRope

from rollforge.errors import UserError
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep
from rollforge.spec import Cut, Event, Phase, PromptSwitch, Step
from rollforge.testing import check_plans, check_policy, check_resume
from rollforge.testing.tiny import condition, network

Events = dict[int, list[type[Event]]]


class Buffer:
    """The released program: a buffer of frames that rolls, read in its order at 0, 1, 2 ..."""

    def __init__(self, window: int, sink: int, flush: int | None, events: Events) -> None:
        self.window, self.sink, self.flush, self.events = window, sink, flush, events
        self.frames: list[int] = []

    def __call__(self, step: Step) -> tuple[list[tuple[int, int]], int]:
        happened = self.events.get(step.index, [])
        if step.phase is Phase.DENOISE:
            sink, rest = self.frames[: self.sink], self.frames[self.sink :]
            if happened and self.flush is not None:
                rest = rest[max(0, len(rest) - self.flush) :]
            while rest and len(sink) + len(rest) > self.window - step.block:
                rest = rest[1:]
            self.frames = [*sink, *rest]
        read = [(frame, place) for place, frame in enumerate(self.frames)]
        if step.phase is Phase.COMMIT:
            self.frames = [*self.frames, *step.frames]
        return read, 45 if Cut in happened else len(read)


@pytest.mark.parametrize(
    ("block", "window", "sink", "flush"),
    [(3, 6, 1, 2), (3, 12, 1, 2), (3, 21, 4, 1), (1, 9, 0, 0), (2, 7, 2, 3), (3, 12, 1, None)],
)
def test_a_thousand_blocks_read_what_a_rolling_buffer_holds(
    block: int, window: int, sink: int, flush: int | None
) -> None:
    drawn = random.Random(window)
    kinds: list[list[type[Event]]] = [[PromptSwitch], [Cut], [Cut, PromptSwitch]]
    events = {index: drawn.choice(kinds) for index in sorted(drawn.sample(range(1, 1000), 150))}
    check_plans(InfinityRope(window, sink, flush), Buffer(window, sink, flush, events), block=block, events=events)


def test_it_passes_the_kit() -> None:
    check_policy(InfinityRope(), blocks=300)


def test_it_resumes_across_switches_and_cuts_with_and_without_keys() -> None:
    check_resume(InfinityRope(9), switches=(3, 5), events={5: (Cut, {})})


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        (InfinityRope(2), r"window_frames=2 and sink_frames=1, .* blocks of 3 frames .*: raise window_frames to 4 or"),
        (InfinityRope(6, 7), r"window_frames=6 and sink_frames=7, .*: raise window_frames to 10 or more"),
        (InfinityRope(60), r"cut_index=45, .* indices 0 to 56: raise cut_index to 57 or more"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_the_first_block(policy: InfinityRope, sentence: str) -> None:
    with pytest.raises(UserError, match=rf"^InfinityRope got {sentence}"):
        Rollout(network(), policy, FewStep())(condition(), 6)


@pytest.mark.parametrize("arguments", [{"window_frames": 0}, {"sink_frames": -1}, {"flush_frames": -1}])
def test_numbers_out_of_range_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(UserError, match=rf"InfinityRope\.{next(iter(arguments))} must be a whole number"):
        InfinityRope(**arguments)
