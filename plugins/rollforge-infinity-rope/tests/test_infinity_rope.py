"""Infinity-RoPE, frame by frame, against a buffer that is written from the rules of the released program."""

from __future__ import annotations

import random

import pytest
from brute import check_resume
from frame_ids import Read, passes
from rollforge_infinity_rope import InfinityRope

from rollforge.errors import UserError
from rollforge.policies import Window
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep
from rollforge.spec import Cut, Event, Phase, PromptSwitch
from rollforge.testing import check_policy
from rollforge.testing.tiny import condition, network

Events = dict[int, list[type[Event]]]


def buffered(
    window: int, sink: int, flush: int | None, block: int, events: Events, opening: int, blocks: int
) -> list[Read]:
    """The released program: a buffer of frames that rolls, read in its order at 0, 1, 2 ..."""
    buffer, made = list[int](), list[Read]()
    if opening:
        made.append(Read(Phase.PREFILL, range(opening), [], 0))
        buffer = [*range(opening)]
    for number in range(blocks):
        start, told = opening + number * block, events.get(number + (opening > 0), [])
        if told and flush is not None and len(buffer) > sink:
            buffer = buffer[:sink] + buffer[sink:][max(0, len(buffer) - sink - flush) :]
        while len(buffer) > window - block:
            del buffer[sink]
        query = 45 if Cut in told and start else len(buffer)
        entries = [(frame, place) for place, frame in enumerate(buffer)]
        frames = range(start, start + block)
        made += [Read(phase, frames, entries, query) for phase in (Phase.DENOISE, Phase.COMMIT)]
        buffer = [*buffer, *frames]
    return made


@pytest.mark.parametrize(
    ("block", "window", "sink", "flush", "opening"),
    [(3, 6, 1, 2, 0), (3, 12, 1, 2, 0), (3, 21, 4, 1, 1), (1, 9, 0, 0, 3), (2, 7, 2, 3, 0), (3, 12, 1, None, 0)],
)
def test_a_thousand_blocks_read_what_a_rolling_buffer_holds(
    block: int, window: int, sink: int, flush: int | None, opening: int
) -> None:
    drawn = random.Random(window)
    kinds: list[list[type[Event]]] = [[PromptSwitch], [Cut], [Cut, PromptSwitch]]
    events = {index: drawn.choice(kinds) for index in sorted(drawn.sample(range(1, 1000), 150))}
    policy = InfinityRope(window, sink, flush)
    expected = buffered(window, sink, flush, block, events, opening, blocks=1000)
    assert list(passes(policy, block, 1000, events, opening)) == expected


def test_every_switch_may_be_a_cut() -> None:
    always, told = {5: [PromptSwitch], 9: [PromptSwitch]}, {5: [Cut], 9: [Cut]}
    cuts = list(passes(InfinityRope(12, cut_at_switch=True), 3, 20, always))
    assert cuts == list(passes(InfinityRope(12), 3, 20, told))
    assert [read.query for read in cuts if read.frames.start == 15] == [45, 45]


def test_it_passes_the_kit() -> None:
    check_policy(InfinityRope(), blocks=300)


def test_without_a_sink_it_is_the_window_of_as_many_frames_but_for_a_shift_in_time() -> None:
    for read, other in zip(passes(InfinityRope(9, 0), 3, 50, {}), passes(Window(2), 3, 50, {}), strict=True):
        assert [(frame, time - read.query) for frame, time in read.entries] == [
            (frame, time - other.query) for frame, time in other.entries
        ]


def test_it_resumes_across_cuts_with_and_without_keys() -> None:
    rollout = Rollout(network(layers=2), InfinityRope(9, 1, cut_at_switch=True), FewStep((1000, 500)))
    check_resume(rollout, {0: condition(), 9: condition(name="second"), 15: condition(name="third")}, 24)  # type: ignore[arg-type]


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
