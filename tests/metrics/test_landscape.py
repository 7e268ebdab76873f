"""How far a landscape has left its opening, on landscapes whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rollforge.data.world import Scene, background
from rollforge.metrics.landscape import Landscape

DAY = Scene.parse("a red ball over grass at day")
ALL = torch.ones(1, 1, 32, 32)
SURE = torch.tensor([True])


def land(seed: int, tinted: bool = True) -> Tensor:
    """A landscape at half resolution, ``[1, 3, 32, 32]``, by averages of four pixels."""
    image = torch.from_numpy(background(DAY, np.random.default_rng(seed), tinted)).permute(2, 0, 1)
    return image.reshape(3, 32, 2, 32, 2).mean(dim=(2, 4))[None]


def opened(*frames: Tensor, visible: Tensor = ALL) -> Landscape:
    metric = Landscape(DAY, opening=len(frames))
    for frame in frames:
        metric.changed(frame, visible, SURE)
    return metric


def test_the_same_landscape_has_not_changed() -> None:
    assert opened(land(1), land(1)).changed(land(1), ALL, SURE).item() == pytest.approx(0, abs=1e-5)


def test_another_landscape_of_the_caption_is_at_one() -> None:
    metric = opened(land(101))
    assert np.mean([metric.changed(land(seed), ALL, SURE).item() for seed in range(200, 232)]) == pytest.approx(
        1, abs=0.15
    )


def test_a_lost_tint_shows_and_lies_between() -> None:
    assert 0.1 < opened(land(5)).changed(land(5, tinted=False), ALL, SURE).item() < 0.9


def test_by_hand_where_half_of_the_opening_is_hidden() -> None:
    left = ALL.clone()
    left[..., 16:] = 0  # the right half of the opening shows a thing
    metric = opened(land(1), visible=left)
    expected = (land(2) - land(1)).abs()[..., :16].mean() / metric.unrelated
    assert metric.changed(land(2), ALL, SURE).item() == pytest.approx(expected.item(), rel=1e-5)


def test_where_nothing_can_be_seen_nothing_is_known() -> None:
    assert opened(land(1)).changed(land(2), torch.zeros_like(ALL), SURE).isnan().all()


def test_the_opening_may_end_inside_a_block() -> None:
    frames = torch.cat([land(1), land(1), land(9), land(9)])
    at_once, apart = Landscape(DAY, opening=2), Landscape(DAY, opening=2)
    whole = at_once.changed(frames, ALL.repeat(4, 1, 1, 1), SURE.repeat(4))
    parts = [apart.changed(frame[None], ALL, SURE) for frame in frames]
    assert torch.allclose(whole, torch.cat(parts))
    assert whole[2:].min() > 0.3


def test_the_opening_is_the_first_frames_whose_things_were_all_found() -> None:
    metric = Landscape(DAY, opening=2)
    assert metric.changed(torch.cat([land(9)] * 3), ALL.repeat(3, 1, 1, 1), ~SURE.repeat(3)).isnan().all()
    frames = torch.cat([land(9), land(1), land(9), land(1), land(7)])
    metric.changed(frames, ALL.repeat(5, 1, 1, 1), torch.tensor([False, True, False, True, True]))
    assert metric.changed(land(1), ALL, SURE).item() == pytest.approx(0, abs=1e-5)
    assert metric.changed(land(7), ALL, ~SURE).item() > 0.3
