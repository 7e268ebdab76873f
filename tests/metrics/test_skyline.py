"""The line of the hills, on landscapes whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rollforge.data.world import FAR, Scene, background, render
from rollforge.metrics.palette import Colours, Palette
from rollforge.metrics.skyline import Skyline

DAY = Scene.parse("a red ball over grass at day")


def colours(land: np.ndarray, scene: Scene = DAY) -> Colours:
    """Of sky and hills, by the landscape's own first and last row."""
    plain, own = Palette(scene), torch.from_numpy(land)
    sky = (plain.sky + (own[0, 0] - plain.sky[:, 0])[:, None]).clamp(0, 1)
    return sky[None], own[-1, 0][None, :, None] * FAR


def floats(video: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(video)).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("pixels", [-3, -1, 0, 2])
def test_hills_that_sink_or_rise_are_measured_in_pixels(pixels: int) -> None:
    land = background(DAY, np.random.default_rng(1))
    moved = np.roll(land, pixels, axis=0)
    metric = Skyline(opening=2)
    assert metric.moved(floats(np.stack([land, land])), colours(land)).tolist() == [0, 0]
    assert metric.moved(floats(moved[None]), colours(land)).item() == pytest.approx(abs(pixels), abs=0.35)


@pytest.mark.parametrize("tinted", [False, True])
@pytest.mark.parametrize("time", ["day", "dusk", "night"])
def test_true_hills_stay_though_things_pass_in_front_of_them(time: str, tinted: bool) -> None:
    scene = Scene.parse(f"a purple box and a yellow cone over snow at {time}")
    drawn, truth = render(scene, 4, 63, tinted)
    video, own = floats(drawn) / 255, colours(truth.background, scene)
    metric = Skyline(opening=21)
    metric.moved(video[:21], own)
    assert metric.moved(video[21:], own).max() < 0.5


def test_other_hills_are_far_off() -> None:
    one, two = (render(DAY, seed, 21) for seed in (1, 2))
    metric = Skyline(opening=21)
    metric.moved(floats(one[0]) / 255, colours(one[1].background))
    assert metric.moved(floats(two[0]) / 255, colours(two[1].background)).mean() > 2


def test_where_nothing_can_be_seen_nothing_is_known() -> None:
    metric = Skyline(opening=1)
    red = torch.zeros(2, 3, 64, 64)
    red[:, 0] = 1.0
    assert metric.moved(red, colours(background(DAY, np.random.default_rng(1)))).isnan().all()
