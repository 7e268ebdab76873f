"""Motion: patterns that move as far as we say, and VBench's rule by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from known_videos import frozen, measured, moving
from torch import Tensor

from rollforge.data.requests import Request
from rollforge.evaluation.measure import measure
from rollforge.metrics import DriftSuite, Flow
from rollforge.metrics.motion import Motion
from rollforge.pipeline import Clip


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


class Sideways(Flow):
    """Everything moves by three pixels, or by what it is told."""

    def __init__(self, shape: tuple[int, ...] | None = None) -> None:
        self.shape, self.seen = shape, 0

    def between(self, before: Tensor, after: Tensor) -> Tensor:
        self.seen += before.shape[2] == 3
        return torch.tensor([3.0, 0.0]).expand(*(self.shape or before.shape[:2]), 2)


def test_motion_reads_the_flow_that_it_is_given_alone_and_in_the_suite() -> None:
    flow = Sideways()
    for metric in (Motion(flow=flow), DriftSuite(flow=flow)):
        curves, figures = measured(metric, moving(17, 1), block=4)
        assert set(curves["flow_median"][1:].tolist()) == {3.0}
        assert figures["dynamic_degree"] == 1
    assert flow.seen == 32


def test_a_flow_of_another_shape_is_told_by_its_name() -> None:
    clip = Clip(torch.from_numpy(moving(3, 1)), 8.0, torch.zeros(1, 1, 1, 1), Request("", 0, 0, 1))
    failed = measure(clip, [Motion(flow=Sideways((4, 5)))]).failed
    assert "The flow Sideways returned a float32 tensor of shape [4, 5, 2] at frame 1" in failed["Motion"]
