"""Metrics for fixed cameras: regions and fields of known answer, and videos whose camera and things do what we say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from known_videos import Video, measured, texture, to_bytes
from skimage.filters import threshold_otsu

from rollforge.metrics.fixed_camera import FixedCamera
from rollforge.metrics.regions import Regions, displacement, otsu, static_region

SIZE, FPS = 320, 8.0
WIDTHS = 1000 * FPS / SIZE  # a pixel per frame in thousandths of the width per second


def window(frames: int, speed: int, late: int | None = None, camera: int = 0) -> Video:
    """A still ground with a square in which a texture goes down; in the second half ``late``, and the camera pans."""
    ground, inner = texture(1, SIZE, 1.5), texture(2, 176, 5.0)
    shown, gone, panned = [], 0, 0
    for t in range(frames):
        frame = ground.copy()
        frame[72:248, 72:248] = np.roll(inner, gone, axis=0)
        shown.append(np.roll(frame, panned, axis=1))
        second = 2 * t >= frames
        gone += late if second and late is not None else speed
        panned += camera if second else 0
    return to_bytes(np.stack(shown))


def test_otsu_is_that_of_scikit_image() -> None:
    random = np.random.default_rng(0)
    values = np.abs(np.concatenate([random.normal(0.1, 0.05, 900), random.normal(2, 0.4, 300)]))
    found, expected = otsu(values), threshold_otsu(values, nbins=256)
    assert (values <= found).sum() == (values <= expected).sum() or found == pytest.approx(
        expected, abs=np.ptp(values) / 256
    )
    assert 0.3 < found < 1.2
    assert (np.zeros(9) <= otsu(np.zeros(9))).all()


def test_flow_by_region_has_the_cameras_similarity_taken_out() -> None:
    """A ground that turns by a degree, grows by 1 % and shifts; a thing that also goes 3 px to the left and 4 down."""
    rows, columns = np.mgrid[:40, :60].astype(np.float64) * 2
    angle, scale = np.deg2rad(1), 1.01
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    places = np.stack([columns, rows], axis=-1)
    camera = places @ turn.T + [0.7, -0.4] - places
    static = np.ones((40, 60), bool)
    static[10:25, 20:40] = False
    field = camera + (~static)[..., None] * [-3.0, 4.0]
    field[:3, :3] = 30  # outliers, which RANSAC leaves out
    found = Regions(static, stride=2).flow(field.astype(np.float32))
    assert found.static == pytest.approx(np.linalg.norm(field, axis=-1)[static].mean(), rel=1e-5)
    assert found.dynamic == pytest.approx(np.linalg.norm(field, axis=-1)[~static].mean(), rel=1e-5)
    assert found.compensated == pytest.approx(5.0, abs=0.02)
    assert (static_region(np.where(static, 0.1, 2.0)[None, ..., None] * np.ones(2, np.float32)) == static).all()
    assert np.isnan(Regions(np.zeros_like(static)).flow(field.astype(np.float32)).static)


def test_displacement_is_that_of_the_background() -> None:
    picture = to_bytes(texture(1, 256, 1.5))[..., 0]
    moved = np.roll(picture, (3, 4), axis=(0, 1))
    found, matches = displacement(picture, moved, np.ones((64, 64), bool))
    assert matches > 50
    assert found == pytest.approx(100 * 5 / (256 * 2**0.5), abs=0.05)
    nothing, none = displacement(np.zeros_like(picture), moved, np.ones((64, 64), bool))
    assert np.isnan(nothing)
    assert none == 0


def test_videos_of_known_answer() -> None:
    videos = window(40, 2), window(40, 2, late=1), window(40, 2, camera=2)
    steady, slows, pans = (measured(FixedCamera(), video)[1] for video in videos)
    for found in (steady, slows, pans):
        assert found["snf_mcff_early"] == pytest.approx(2 * WIDTHS, rel=0.2)  # flow is smoothed at the edges
    assert steady["snf_nbf"] < 0.25 * WIDTHS
    assert steady["snf_fbd"] == pytest.approx(0, abs=0.1)
    assert (steady["snf_fp"], slows["snf_fp"]) == pytest.approx((1, 0.5), rel=0.15)
    assert steady["snf_dar"] < 0.15 > steady["snf_dlr"]
    assert pans["snf_nbf"] == pytest.approx(WIDTHS, rel=0.15)  # 2 px per frame in half of the video
    assert pans["snf_dlr"] > 0.3
    assert pans["snf_fp"] < 1.3  # the pan is no motion of things, though raw flow grows
    assert pans["snf_fbd"] == pytest.approx(100 * 38 / (SIZE * 2**0.5), rel=0.1)
    assert pans["snf_matches"] > 10


def test_units_do_not_depend_on_the_frame_rate() -> None:
    slow, fast = measured(FixedCamera(), window(32, 2))[1], measured(FixedCamera(), window(64, 1), fps=16.0)[1]
    assert fast["snf_mcff_early"] == pytest.approx(slow["snf_mcff_early"], rel=0.1)


def test_what_is_too_short_has_no_figures_and_a_cut_run_goes_on() -> None:
    video = window(40, 2)
    assert np.isnan(measured(FixedCamera(), video[:31])[1]["snf_nbf"])
    assert not np.isnan(measured(FixedCamera(), video[:32])[1]["snf_nbf"])
    whole, before, after = FixedCamera(), FixedCamera(), FixedCamera()
    for metric in (whole, before, after):
        metric.start("a video", FPS)
    whole.update(torch.from_numpy(video), 0)
    before.update(torch.from_numpy(video[:9]), 0)
    after.load_state_dict(before.state_dict())
    after.update(torch.from_numpy(video[9:]), 9)
    assert after.finish() == whole.finish()
