"""A metric that is saved and restored into a new object continues as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from known_videos import loop, noisy
from torch import Tensor

from rollforge.data.world import Scene, render
from rollforge.metrics.base import Blocks, Metric
from rollforge.metrics.colour import ColourHistogram, Exposure
from rollforge.metrics.flicker import Flicker, Stagnation
from rollforge.metrics.latents import LatentStatistics
from rollforge.metrics.motion import Motion
from rollforge.metrics.repetition import Repetition
from rollforge.metrics.seams import Seams
from rollforge.metrics.sharpness import Sharpness
from rollforge.metrics.suite import DriftSuite
from rollforge.metrics.truth import WorldTruth
from rollforge.state import State, odd

PROMPT = "a green cone and a blue box over sand at night"
FRAMES = 36
METRICS: dict[str, Callable[[], Metric]] = {
    kind.__name__: kind
    for kind in (Flicker, Exposure, ColourHistogram, Sharpness, Motion, Stagnation, Seams, LatentStatistics)
}
METRICS |= {
    "Repetition": lambda: Repetition(window=16, whole=8, sink=3),
    "DriftSuite": lambda: DriftSuite(clip_seconds=1.0, window=16),
    "WorldTruth": WorldTruth,
}


@cache
def video(world: bool) -> Tensor:
    shown = render(Scene.parse(PROMPT), 3, FRAMES)[0] if world else noisy(loop(FRAMES, 13, size=32), 4)
    return torch.from_numpy(np.array(shown))


def started(name: str, fps: float) -> Metric:
    metric = METRICS[name]()
    metric.start(PROMPT, fps, Blocks(5, 7))
    return metric


def measured(metric: Metric, name: str, starts: list[int]) -> Iterator[dict[str, Tensor]]:
    for start, end in pairwise(starts):
        shown = video(name == "WorldTruth")[start:end]
        yield metric.update(shown, start)
        yield metric.update_latents(shown.permute(0, 3, 1, 2).float(), start)


def through_a_file(state: State) -> State:
    file = BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=4, deadline=None)
@given(
    cuts=st.lists(st.integers(1, FRAMES - 1), min_size=1, max_size=6, unique=True).map(sorted),
    at=st.integers(0, 5),
    fps=st.sampled_from([8.0, 16.0]),
)
def test_it_goes_on_as_if_nothing_had_happened(name: str, cuts: list[int], at: int, fps: float) -> None:
    saved = at % len(cuts) + 1
    straight, first, second = (started(name, fps) for _ in range(3))
    expected = list(measured(straight, name, [0, *cuts, FRAMES]))
    parts = list(measured(first, name, [0, *cuts[:saved]]))
    state = first.state_dict()
    assert odd(state) is None
    list(measured(first, name, [cuts[saved - 1], FRAMES]))  # what happens later does not reach the state
    second.load_state_dict(through_a_file(state))
    parts += measured(second, name, [*cuts[saved - 1 :], FRAMES])
    assert len(parts) == len(expected)
    for part, whole in zip(parts, expected, strict=True):
        assert part.keys() == whole.keys()
        for curve in part:
            assert torch.equal(part[curve].nan_to_num(-9), whole[curve].nan_to_num(-9)), curve
    assert second.finish() == pytest.approx(straight.finish(), rel=0, abs=0, nan_ok=True)


@pytest.mark.parametrize("name", sorted(METRICS.keys() - {"WorldTruth"}))
@settings(max_examples=3, deadline=None)
@given(cuts=st.lists(st.integers(1, FRAMES - 1), max_size=8, unique=True).map(sorted))
def test_the_blocks_it_comes_in_do_not_matter(name: str, cuts: list[int]) -> None:
    whole, pieces = started(name, 8.0), started(name, 8.0)
    expected, parts = ([*measured(whole, name, [0, FRAMES])], [*measured(pieces, name, [0, *cuts, FRAMES])])
    for one in (0, 1):
        for curve, values in expected[one].items():
            joined = torch.cat([part[curve] for part in parts[one::2]])
            assert torch.equal(joined.nan_to_num(-9), values.nan_to_num(-9)), curve
    assert pieces.finish() == pytest.approx(whole.finish(), rel=0, abs=0, nan_ok=True)


def test_a_new_start_forgets_the_video_before() -> None:
    used = started("DriftSuite", 8.0)
    list(measured(used, "DriftSuite", [0, 30]))
    used.start(PROMPT, 8.0, Blocks(5, 7))
    fresh = started("DriftSuite", 8.0)
    one, two = (list(measured(metric, "DriftSuite", [0, FRAMES])) for metric in (used, fresh))
    for curve in one[0]:
        assert torch.equal(one[0][curve].nan_to_num(-9), two[0][curve].nan_to_num(-9))
    assert used.finish() == pytest.approx(fresh.finish(), rel=0, abs=0, nan_ok=True)
