"""Every policy against a second reading of the papers: block lists, reversed literally, no closed form."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollforge.policies import AttentionSink, CachePolicy, RollingSink, SlidingIndices, Window
from rollforge.spec import Phase, Step

Entry = tuple[int, int]
BLOCKS = 1000
SINKS: list[type[CachePolicy]] = [AttentionSink, SlidingIndices, RollingSink]
SETTINGS = [(6, 5), (6, 0), (6, 3), (3, 1), (1, 1), (2, 2)]


def frames_of(block: int, size: int) -> list[int]:
    return [block * size + n for n in range(size)]


def at(block: int, frames: list[int]) -> list[Entry]:
    """These frames, read at the time indices of ``block``."""
    return list(zip(frames, frames_of(block, len(frames)), strict=True))


def own(blocks: range, size: int) -> list[Entry]:
    return [entry for block in blocks for entry in at(block, frames_of(block, size))]


def window_by_the_paper(i: int, k: int, s: int, size: int) -> list[Entry]:
    return own(range(max(0, i - k), i), size)


def attention_sink_by_the_paper(i: int, k: int, s: int, size: int) -> list[Entry]:
    if i <= k:
        return own(range(i), size)
    return own(range(s), size) + own(range(i - (k - s), i), size)


def sliding_indices_by_the_paper(i: int, k: int, s: int, size: int) -> list[Entry]:
    if i <= k:
        return own(range(i), size)
    slid = [entry for block in range(s) for entry in at(i - k + block, frames_of(block, size))]
    return slid + own(range(i - (k - s), i), size)


def rolled(block: int, k: int, size: int) -> list[int]:
    """Roll[block]: the opening K blocks forwards, then backwards with their frames in reverse, and so on."""
    forwards = [frames_of(n, size) for n in range(k)]
    backwards = [list(reversed(frames)) for frames in reversed(forwards)]
    return (forwards + backwards)[block % (2 * k)]


def rolling_sink_by_the_paper(i: int, k: int, s: int, size: int) -> list[Entry]:
    if i <= k:
        return own(range(i), size)
    rolls = [entry for block in range(i - k, i - (k - s)) for entry in at(block, rolled(block, k, size))]
    return rolls + own(range(i - (k - s), i), size)


READINGS: dict[type[CachePolicy], Callable[[int, int, int, int], list[Entry]]] = {
    Window: window_by_the_paper,
    AttentionSink: attention_sink_by_the_paper,
    SlidingIndices: sliding_indices_by_the_paper,
    RollingSink: rolling_sink_by_the_paper,
}


def build(kind: type[CachePolicy], k: int, s: int) -> CachePolicy:
    return Window(k) if kind is Window else kind(context_blocks=k, sink_blocks=s)  # type: ignore[call-arg]


def check(kind: type[CachePolicy], k: int, s: int, size: int, blocks: range) -> None:
    policy, reading = build(kind, k, s), READINGS[kind]
    for index in blocks:
        plan = policy.plan(Step.of(index, size))
        entries, times = plan.entries(), [time for _, time in plan.entries()]
        assert list(entries) == reading(index, k, s, size), (kind.__name__, k, s, size, index)
        assert plan.query == index * size
        assert all(segment.length > 0 for segment in plan.segments)
        assert len(plan.segments) <= 3
        assert len(entries) == min(index, k) * size <= policy.visible(size)
        assert all(0 <= content < plan.query for content, _ in entries)
        assert len(set(times)) == len(times)
        assert not times or max(times) < plan.query


@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize(("k", "s"), SETTINGS)
@pytest.mark.parametrize("kind", READINGS)
def test_a_thousand_blocks_equal_the_paper(kind: type[CachePolicy], k: int, s: int, size: int) -> None:
    check(kind, k, s, size, range(BLOCKS))


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """K, S, block size, and a block number that may be hours into the video."""
    k = draw(st.integers(1, 12))
    return k, draw(st.integers(0, k)), draw(st.integers(1, 5)), draw(st.integers(0, 10**7))


@settings(deadline=None, max_examples=60)
@given(counts(), st.sampled_from(list(READINGS)))
def test_any_setting_equals_the_paper(chosen: tuple[int, int, int, int], kind: type[CachePolicy]) -> None:
    k, s, size, index = chosen
    check(kind, k, s, size, range(4 * k + 2))
    check(kind, k, s, size, range(index, index + 2))


def blocks_seen(policy: CachePolicy, index: int) -> str:
    """Blocks of three frames by number, ``~`` before a reversed one."""
    contents = [content for content, _ in policy.plan(Step.of(index, 3)).entries()]
    names = []
    for n in range(0, len(contents), 3):
        first, middle, last = contents[n : n + 3]
        assert middle - first == last - middle in (1, -1)
        names.append(f"{first // 3}" if first < last else f"~{last // 3}")
    return " ".join(names)


@pytest.mark.parametrize(
    ("index", "blocks"),
    [(6, "0 1 2 3 4 5"), (7, "1 2 3 4 5 6"), (8, "2 3 4 5 ~5 7"), (13, "~4 ~3 ~2 ~1 ~0 12"), (14, "~3 ~2 ~1 ~0 0 13")],
)
def test_rolling_sink_at_the_blocks_of_the_released_setting(index: int, blocks: str) -> None:
    assert blocks_seen(RollingSink(), index) == blocks
    times = [time for _, time in RollingSink().plan(Step.of(index, 3)).entries()]
    assert times == list(range(3 * (index - 6), 3 * index))


def test_rolling_sink_is_a_triangle_wave_of_nine_seconds() -> None:
    wave = dict(own(range(6), 3))
    for index in range(7, 60):
        wave.update({time: content for content, time in RollingSink().plan(Step.of(index, 3)).entries()[:15]})
    played = [wave[time] for time in range(150)]
    assert played[:38] == [*range(18), *range(17, -1, -1), 0, 1]
    assert all(played[time] == played[time + 36] for time in range(100))


def test_the_first_k_blocks_are_seen_as_they_are_by_every_policy() -> None:
    plans = [[build(kind, 6, 5).plan(Step.of(index, 3)).entries() for index in range(7)] for kind in READINGS]
    assert all(plan == plans[0] for plan in plans)


@pytest.mark.parametrize("kind", SINKS)
def test_no_sink_is_the_window(kind: type[CachePolicy]) -> None:
    policy, window = build(kind, 4, 0), Window(4)
    for index in range(100):
        step = Step.of(index, 3)
        assert policy.plan(step).entries() == window.plan(step).entries()
        assert policy.live(step.start, 3) == window.live(step.start, 3)


@pytest.mark.parametrize(("k", "s"), SETTINGS)
@pytest.mark.parametrize("size", [1, 3])
def test_sliding_indices_are_window_relative_indices_up_to_a_shift(k: int, s: int, size: int) -> None:
    policy = SlidingIndices(k, s)
    for index in range(BLOCKS):
        plan = policy.plan(Step.of(index, size))
        shift = max(0, index - k) * size
        seen = min(index, k) * size
        assert [time - shift for _, time in plan.entries()] == list(range(seen))
        assert plan.query - shift == seen


def test_sliding_and_rolling_time_never_has_a_gap() -> None:
    for policy in (Window(), SlidingIndices(), RollingSink()):
        for index in range(BLOCKS):
            plan = policy.plan(Step.of(index, 3))
            assert [time for _, time in plan.entries()] == list(range(max(0, plan.query - 18), plan.query))


@pytest.mark.parametrize("kind", READINGS)
def test_plans_are_pure(kind: type[CachePolicy]) -> None:
    used, order = build(kind, 6, 5), list(range(300)) * 2
    random.Random(0).shuffle(order)
    first = {index: build(kind, 6, 5).plan(Step.of(index, 3)) for index in range(300)}
    for index in order:
        for phase in Phase:
            assert used.plan(Step.of(index, 3, phase, level=index % 4)) == first[index]
        used.live(index * 3, 3)
        used.on_commit(Step.of(index, 3, Phase.COMMIT))
