"""The codec, the conditioner and the dataset."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rollforge_frames import MovingShapes, ShapeNames, SmallPictures
from rollforge_frames.shapes import RADIUS, SIZE, SPEED, bounced

from rollforge.errors import UserError


def test_the_codec_averages_squares_of_pixels_and_paints_them_back() -> None:
    codec = SmallPictures(scale=2)
    video = torch.arange(16.0).view(1, 1, 1, 4, 4).expand(1, 2, 3, 4, 4) / 15
    latents = codec.encode(video)
    expected = 2 * torch.tensor([[2.5, 4.5], [10.5, 12.5]]) / 15 - 1
    torch.testing.assert_close(latents, expected.expand(1, 2, 3, 2, 2))
    torch.testing.assert_close(codec.encode(codec.decode(latents)), latents)
    assert codec.decode(3 * torch.ones(1, 1, 3, 2, 2)).max() == 1
    assert codec.pixel_size(width=5, height=3) == (10, 6)


def test_a_stream_decodes_frame_by_frame_what_is_decoded_at_once() -> None:
    codec, latents = SmallPictures(), torch.randn(2, 5, 3, 4, 4)
    stream = codec.stream()
    pieces = [stream(latents[:, :2]), stream(latents[:, 2:])]
    assert torch.equal(torch.cat(pieces, dim=1), codec.decode(latents))
    assert codec.pixel_frames(5) == codec.decode(latents).shape[1]


def test_prompts_become_classes_and_others_are_refused() -> None:
    conditioner = ShapeNames()
    first, same, other = (
        conditioner(["circle", " square "]),
        conditioner(["circle", "square"]),
        conditioner(["", "square"]),
    )
    assert first.id == same.id != other.id
    assert first.to(torch.bfloat16).extra["shape"].tolist() == [[1], [2]]
    assert other.extra["shape"].tolist() == [[0], [2]]
    with pytest.raises(UserError, match="circle, square, triangle and the empty prompt, not 'a dog'"):
        conditioner.check(["circle", "a dog"])


def test_clips_depend_on_seed_and_index_alone() -> None:
    one, again, other = MovingShapes(seed=1)[5], MovingShapes(seed=1)[5], MovingShapes(seed=2)[5]
    assert one["video"].shape == (8, SIZE, SIZE, 3)
    assert one["caption"] == again["caption"]
    assert torch.equal(one["video"], again["video"])
    assert not torch.equal(one["video"], other["video"])


def test_shapes_move_on_and_stay_in_the_picture() -> None:
    centres = bounced(np.array((20.0, 40.0)) + 0.7 * SPEED * np.arange(500)[:, None])
    assert centres.min() >= RADIUS
    assert centres.max() <= SIZE - RADIUS
    moved = np.abs(np.diff(centres, axis=0))
    assert (moved <= 0.7 * SPEED + 1e-9).all()
    assert np.median(moved) == pytest.approx(0.7 * SPEED)
    for clip in map(MovingShapes().__getitem__, range(20)):
        coloured = (clip["video"] != torch.tensor((16, 16, 32))).any(-1).flatten(1).float().mean(1)
        assert coloured.std() < 0.01  # nothing is cut off at the border
        assert 0.12 < coloured.mean() < 0.3
