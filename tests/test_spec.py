"""The shared vocabulary: plain numbers that check themselves."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollforge.errors import UserError
from rollforge.spec import ModelSpec, Phase, ReadPlan, Segment, Step

WAN = ModelSpec(16, 60, 104, (2, 2), 30, 12, 128, 3, 21, 21, 4.0)


def test_a_model_knows_its_tokens() -> None:
    assert WAN.grid == (30, 52)
    assert WAN.tokens == 1560
    assert WAN.latent_shape == (16, 60, 104)
    assert replace(WAN, patch=(4, 1)).grid == (15, 104)


@pytest.mark.parametrize("name", ["channels", "height", "width", "layers", "heads", "head_dim", "block", "window"])
@pytest.mark.parametrize("count", [0, -3])
def test_every_count_is_one_or_more(name: str, count: int) -> None:
    with pytest.raises(UserError) as error:
        replace(WAN, **{name: count})
    assert str(error.value) == f"The backbone's {name} is {count}; it must be 1 or more."


@pytest.mark.parametrize("name", ["window", "horizon"])
def test_windows_and_horizons_are_whole_blocks(name: str) -> None:
    with pytest.raises(UserError) as error:
        replace(WAN, **{name: 20})
    assert str(error.value) == f"The backbone's {name} is 20 latent frames; it must be a multiple of its block, 3."
    assert getattr(replace(WAN, **{name: 24}), name) == 24


@pytest.mark.parametrize("patch", [(0, 2), (2, 0), (-2, 2), (7, 2), (2, 5)])
def test_patches_divide_the_frame(patch: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=rf"latent size 60x104 cannot be cut into patches of {patch[0]}x{patch[1]}\.$"):
        replace(WAN, patch=patch)


@pytest.mark.parametrize("fps", [0.0, -4.0, float("nan"), float("inf")])
def test_frames_have_a_rate(fps: float) -> None:
    with pytest.raises(UserError, match=r"fps is .*; it must be above 0\.$"):
        replace(WAN, fps=fps)


def test_plain_data_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        WAN.block = 1  # type: ignore[misc]
    assert {Step.of(1, 3), Step.of(1, 3)} == {Step(1, 3, 3)}
    assert hash(ReadPlan((Segment(0, 0, 3),), 3)) == hash(ReadPlan((Segment(0, 0, 3),), 3))


@given(st.integers(0, 10**7), st.integers(1, 8))
def test_a_step_holds_the_frames_of_its_block(index: int, block: int) -> None:
    step = Step.of(index, block, Phase.COMMIT, level=2)
    assert list(step.frames) == [index * block + n for n in range(block)]
    assert (step.phase, step.level) == (Phase.COMMIT, 2)
    assert step.frames.stop == Step.of(index + 1, block).start


def test_a_step_may_hold_more_or_fewer_frames_than_a_block() -> None:
    assert Step(2, 6, 3, count=1).frames == range(6, 7)
    assert Step(2, 6, 3, count=9).frames == range(6, 15)
    assert len(Step(2, 6, 3, count=0).frames) == 0


def test_only_a_denoising_pass_writes_nothing() -> None:
    assert {phase for phase in Phase if not phase.writes} == {Phase.DENOISE}


@pytest.mark.parametrize(
    ("segment", "entries"),
    [
        (Segment(4, 9, 3), [(4, 9), (5, 10), (6, 11)]),
        (Segment(4, 9, 3, stride=-1), [(4, 9), (3, 10), (2, 11)]),
        (Segment(4, 9, 3, stride=0), [(4, 9), (4, 10), (4, 11)]),
        (Segment(4, 9, 2, stride=5), [(4, 9), (9, 10)]),
        (Segment(4, 9, 0), []),
    ],
)
def test_a_segment_is_a_run_of_content_under_a_run_of_time(segment: Segment, entries: list[tuple[int, int]]) -> None:
    assert list(segment.entries()) == entries


def test_a_plan_lists_its_segments_in_order() -> None:
    plan = ReadPlan((Segment(3, 0, 2, stride=-1), Segment(7, 2, 1)), query=8)
    assert plan.entries() == ((3, 0), (2, 1), (7, 2))
    assert plan.entries() == plan.entries()


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 10**6))), st.integers(0, 10**6))
def test_a_plan_of_pairs_gives_the_pairs_back(pairs: list[tuple[int, int]], query: int) -> None:
    plan = ReadPlan.of(iter(pairs), query)
    assert plan.entries() == tuple(pairs)
    assert plan.query == query


def test_the_vocabulary_comes_without_torch() -> None:
    code = "import sys, rollforge.spec, rollforge.policies; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
