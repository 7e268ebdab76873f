"""Motion: patterns that move as far as we say, and VBench's rule by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from known_videos import frozen, measured, moving

from rollforge.metrics.motion import Motion


@pytest.mark.parametrize("pixels", [1, 2, 3, 5])
def test_a_moving_pattern_moves_as_far_as_it_does(pixels: int) -> None:
    curves, _ = measured(Motion(), moving(6, pixels, size=128, sigma=3.0))
    np.testing.assert_allclose(curves["flow_median"][1:], pixels, rtol=0.1 if pixels == 1 else 0.05)
    assert np.isnan(curves["flow_median"][0])


def test_a_frozen_video_does_not_move() -> None:
    curves, figures = measured(Motion(), frozen(32))
    assert (curves["flow_top"][1:] == 0).all()
    assert figures == {"dynamic_degree": 0.0}


def test_flow_is_that_of_a_plain_loop() -> None:
    video = moving(9, 3)
    curves, _ = measured(Motion(), video, block=4)
    lumas = [cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in video]
    for t in range(1, 9):
        dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        moved = np.linalg.norm(dis.calc(lumas[t - 1], lumas[t], None), axis=2).ravel()
        assert curves["flow_top"][t] == pytest.approx(np.sort(moved)[-int(0.05 * moved.size) :].mean(), rel=1e-5)
        assert curves["flow_median"][t] == pytest.approx(np.median(moved), rel=1e-3)


def test_at_sixteen_frames_a_second_every_other_is_measured_in_pixels_per_frame() -> None:
    curves, _ = measured(Motion(), moving(9, 2, size=128, sigma=3.0), fps=16.0)
    assert np.flatnonzero(~np.isnan(curves["flow_median"])).tolist() == [2, 4, 6, 8]
    np.testing.assert_allclose(curves["flow_median"][2::2], 2, rtol=0.05)


def test_clips_are_dynamic_by_the_rule_of_vbench() -> None:
    """64 pixels: a pair must be 1.5 pixels apart; of 16 frames, 4 pairs must be."""
    fast, slow = moving(64, 3), moving(64, 1)
    assert measured(Motion(), fast)[1]["dynamic_degree"] == 1
    assert measured(Motion(), slow)[1]["dynamic_degree"] == 0
    half = np.concatenate([fast[:32], slow[:32]])
    assert measured(Motion(), half)[1]["dynamic_degree"] == 0.5
    few = [0, 1, 2, 3, *[3] * 12]  # three steps
    assert measured(Motion(), fast[few])[1]["dynamic_degree"] == 0
    enough = [0, 1, 2, 3, 4, *[4] * 11]
    assert measured(Motion(), fast[enough])[1]["dynamic_degree"] == 1


def test_a_short_video_is_one_clip_and_a_picture_none() -> None:
    assert measured(Motion(), moving(8, 3))[1]["dynamic_degree"] == 1
    assert np.isnan(measured(Motion(), moving(1, 3))[1]["dynamic_degree"])


def test_motion_is_not_taken_across_a_gap() -> None:
    metric, video = Motion(), torch.from_numpy(moving(20, 3))
    metric.start("a video", 8.0)
    metric.update(video[:5], 0)
    assert metric.update(video[10:], 10)["flow_top"].isnan().tolist() == [True] + [False] * 9
