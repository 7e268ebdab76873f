"""Colours of sky and ground, on landscapes whose tints are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rollforge.data.world import WORDS, Scene, background
from rollforge.metrics.palette import Palette, Tint, rows

SCENES = [Scene((("red", "ball"),), ground, time) for ground in WORDS["ground"] for time in WORDS["time"]]
DAY = Scene.parse("a red ball over grass at day")
ALL = torch.ones(1, 1, 32, 32)


def land(scene: Scene, seed: int, tinted: bool = True) -> Tensor:
    """A landscape at half resolution, ``[1, 3, 32, 32]``."""
    image = torch.from_numpy(background(scene, np.random.default_rng(seed), tinted)).permute(2, 0, 1)
    return functional.avg_pool2d(image[None], 2)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: f"{scene.ground}-{scene.time}")
def test_every_tint_of_the_world_is_allowed(scene: Scene) -> None:
    palette = Palette(scene)
    for seed in range(8):
        true = background(scene, np.random.default_rng(seed))
        seen = rows(land(scene, seed), ALL)
        sky, soil = palette.fitted(seen)
        assert palette.error(seen, (sky, soil)).item() < 0.01
        assert np.abs(sky[0].T.numpy() - true[:, 0])[:20].max() < 0.01  # the sky that is bare in any landscape
        assert np.abs(soil[0, :, 0].numpy() - true[-1, 0] * 0.8).max() < 0.01  # far hills are darker


def test_no_tint_makes_another_ground_or_time_true() -> None:
    for other in ("a red ball over snow at day", "a red ball over grass at dusk"):
        palette, shown = Palette(DAY), [rows(land(Scene.parse(other), seed), ALL) for seed in range(8)]
        errors = [palette.error(seen, palette.fitted(seen)).item() for seen in shown]
        assert min(errors) > 0.03


def test_what_is_hidden_does_not_count() -> None:
    shown, visible = land(DAY, 1), ALL.clone()
    shown[..., :20], visible[..., :20] = 0.5, 0
    torch.testing.assert_close(rows(shown, visible)[:, :, 27:], rows(land(DAY, 1), ALL)[:, :, 27:])
    assert rows(shown, torch.zeros_like(ALL)).isnan().all()


def test_a_tint_that_stays_has_not_drifted_and_another_is_as_far_as_its_rows() -> None:
    metric = Tint(opening=2)
    own, other = rows(land(DAY, 1), ALL), rows(land(DAY, 2), ALL)
    assert metric.drifted(torch.cat([own, own])).max() < 1e-6
    apart = (own - other).abs()
    expected = torch.cat([apart[:, :, :10], apart[:, :, 27:]], dim=2).mean()
    torch.testing.assert_close(metric.drifted(other)[0], expected)
    assert expected > 0.03


def test_the_opening_may_end_inside_a_block() -> None:
    frames = torch.cat([rows(land(DAY, seed), ALL) for seed in (1, 1, 5, 5)])
    at_once, apart = Tint(opening=2), Tint(opening=2)
    parts = torch.cat([apart.drifted(frame[None]) for frame in frames])
    torch.testing.assert_close(at_once.drifted(frames), parts)
