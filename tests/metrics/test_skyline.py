"""The line of the hills, on landscapes whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rollforge.data.world import Scene, background, render
from rollforge.metrics.skyline import Skyline

DAY = Scene.parse("a red ball over grass at day")


def floats(video: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(video)).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("pixels", [-3, -1, 0, 2])
def test_hills_that_sink_or_rise_are_measured_in_pixels(pixels: int) -> None:
    land = background(DAY, np.random.default_rng(1))
    moved = np.roll(land, pixels, axis=0)
    metric = Skyline(DAY, opening=2)
    assert metric.moved(floats(np.stack([land, land]))).tolist() == [0, 0]
    assert metric.moved(floats(moved[None])).item() == pytest.approx(abs(pixels), abs=0.35)


@pytest.mark.parametrize("trees", [False, True])
@pytest.mark.parametrize("time", ["day", "dusk", "night"])
def test_true_hills_stay_though_things_pass_in_front_of_them(time: str, trees: bool) -> None:
    scene = Scene.parse(f"a purple box and a yellow cone over snow at {time}")
    video = floats(render(scene, 4, 63, trees)[0]) / 255
    metric = Skyline(scene, opening=21)
    metric.moved(video[:21])
    assert metric.moved(video[21:]).max() < 0.5


def test_other_hills_are_far_off() -> None:
    one, two = (floats(render(DAY, seed, 21)[0]) / 255 for seed in (1, 2))
    metric = Skyline(DAY, opening=21)
    metric.moved(one)
    assert metric.moved(two).mean() > 2


def test_where_nothing_can_be_seen_nothing_is_known() -> None:
    metric = Skyline(DAY, opening=1)
    red = torch.zeros(2, 3, 64, 64)
    red[:, 0] = 1.0
    assert metric.moved(red).isnan().all()
