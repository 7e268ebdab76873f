"""Measures of one frame after another, and of latents: known answers, and other ways to compute them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from known_videos import blur, frozen, lightness_drift, measured, moving, noisy, stepping, texture, to_bytes
from scipy.ndimage import laplace
from skimage.color import rgb2hsv, rgb2lab

from rollforge.metrics.base import Blocks
from rollforge.metrics.colour import ColourHistogram, Exposure
from rollforge.metrics.flicker import Flicker, Stagnation
from rollforge.metrics.frames import Frame
from rollforge.metrics.latents import LatentStatistics, latent_statistics
from rollforge.metrics.seams import Seams
from rollforge.metrics.sharpness import Sharpness
from rollforge.metrics.summary import slope_per_minute

WAN, POCKET = Blocks(9, 12), Blocks(3, 3)


def test_flicker_is_what_numpy_says() -> None:
    video = noisy(moving(20, 2), 9)
    curves, _ = measured(Flicker(), video)
    steps = np.diff(video.astype(float), axis=0)
    np.testing.assert_allclose(curves["flicker"][1:], abs(steps).mean((1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(curves["flicker_fast"][2:], abs(np.diff(steps, axis=0)).mean((1, 2, 3)), rtol=1e-6)
    assert np.isnan(curves["flicker"][0])
    assert np.isnan(curves["flicker_fast"][:2]).all()


def test_an_even_change_flickers_only_slowly() -> None:
    video = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.uint8(3) + np.zeros((20, 16, 16, 3), np.uint8)
    curves, _ = measured(Flicker(), video)
    assert (curves["flicker"][1:] == 3).all()
    assert (curves["flicker_fast"][2:] == 0).all()


def test_frames_left_out_are_no_flicker() -> None:
    metric, video = Flicker(), torch.from_numpy(moving(20, 2))
    metric.start("a video", 8.0)
    metric.update(video[:5], 0)
    later = metric.update(video[10:], 10)
    assert later["flicker"].isnan().tolist() == [True] + [False] * 9
    assert later["flicker_fast"].isnan().tolist() == [True] * 2 + [False] * 8


@pytest.mark.parametrize("seed", range(4))
def test_lab_is_what_skimage_says(seed: int) -> None:
    tint = np.random.default_rng(seed).uniform(0.3, 1.2, 3)
    picture = to_bytes(texture(seed) * tint)
    curves, _ = measured(Exposure(), picture[None])
    lab = rgb2lab(picture)
    for n, name in enumerate(("lightness", "green_red", "blue_yellow")):
        assert curves[name][0] == pytest.approx(lab[..., n].mean(), abs=0.15)
        assert curves[f"{name}_spread"][0] == pytest.approx(lab[..., n].std(), abs=0.3)
    assert curves["saturation"][0] == pytest.approx(rgb2hsv(picture)[..., 1].mean(), abs=0.003)


def test_clipped_pixels_are_counted() -> None:
    video = np.full((3, 10, 10, 3), 128, np.uint8)
    video[1, :3], video[1, 9:] = 4, 251
    video[2, :3], video[2, 9:] = 5, 250
    curves, _ = measured(Exposure(), video)
    np.testing.assert_allclose(curves["dark_share"], [0, 0.3, 0], atol=1e-7)
    np.testing.assert_allclose(curves["bright_share"], [0, 0.1, 0], atol=1e-7)


def test_a_slow_drift_of_lightness_has_its_slope() -> None:
    curves, _ = measured(Exposure(), lightness_drift(120, 8.0, per_minute=12.0))
    assert slope_per_minute(curves["lightness"], 8.0) == pytest.approx(12.0, abs=0.5)
    assert slope_per_minute(curves["green_red"], 8.0) == pytest.approx(0, abs=0.5)
    assert slope_per_minute(curves["blue_yellow"], 8.0) == pytest.approx(0, abs=0.5)


def test_a_frozen_video_has_no_drift_and_stands_still() -> None:
    video = frozen(24)
    for metric in (Exposure(), Sharpness()):
        for curve in measured(metric, video)[0].values():
            assert np.ptp(curve) == 0
    curves, figures = measured(Stagnation(), video)
    assert figures == {"longest_still_seconds": 23 / 8, "still_share": 1.0}
    assert curves["still_seconds"][-1] == pytest.approx(23 / 8)


def test_the_longest_pause_is_found_between_motions() -> None:
    order = [0, 1, 2, 2, 2, 2, 3, 4, 4, 5]
    figures = measured(Stagnation(), moving(6, 2)[order], block=3)[1]
    assert figures == {"longest_still_seconds": 3 / 8, "still_share": pytest.approx(4 / 9)}
    assert measured(Stagnation(), moving(6, 2))[1]["longest_still_seconds"] == 0


def hellinger(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.sqrt(0.5 * np.square(np.sqrt(one) - np.sqrt(two)).sum()))


def test_histogram_distances_are_what_numpy_says() -> None:
    video = np.stack([to_bytes(texture(t) * (1 - 0.02 * t)) for t in range(12)])
    curves, _ = measured(ColourHistogram(clip_seconds=0.5), video)
    labs = [Frame(one, 0).lab for one in video]
    shares = np.array([[np.histogram(lab[..., c], 32, (0, 256))[0] / 4096 for c in range(3)] for lab in labs])
    clip = shares[:4].mean(axis=0)
    units = np.array([100 / 255, 1, 1]) * 8
    for t in range(4, 12):
        distance = np.mean([hellinger(shares[t, c], clip[c]) for c in range(3)])
        shift = np.mean([abs(np.cumsum(shares[t, c]) - np.cumsum(clip[c])).sum() * units[c] for c in range(3)])
        assert curves["histogram_distance"][t] == pytest.approx(distance, abs=1e-5)
        assert curves["histogram_shift"][t] == pytest.approx(shift, abs=1e-5)
    assert curves["histogram_distance"][0] == pytest.approx(0, abs=1e-6)


def test_clips_of_other_colours_are_one_apart_and_the_shift_says_how_far() -> None:
    """Grey 60 and 180: L 25.2 and 73.2, a and b alike: one channel of three."""
    video = np.full((32, 32, 32, 3), 60, np.uint8)
    video[16:] = 180
    curves, _ = measured(ColourHistogram(), video)
    np.testing.assert_allclose(curves["histogram_distance"][:16], 0, atol=1e-6)
    np.testing.assert_allclose(curves["histogram_distance"][16:], 1 / 3, atol=1e-6)
    bin_width = 8 * 100 / 255
    np.testing.assert_allclose(curves["histogram_shift"][16:], 48 / 3, atol=bin_width / 3)


def test_sharpness_is_what_scipy_says() -> None:
    video = noisy(moving(3, 2), 5)
    curves, _ = measured(Sharpness(), video)
    luma = np.rint(video @ np.array([0.299, 0.587, 0.114]))
    expected = [laplace(one, mode="mirror").var() for one in luma]
    np.testing.assert_allclose(curves["detail"], expected, rtol=0.01)  # OpenCV's luma may round the other way
    exact = [laplace(Frame(one, 0).luma.astype(float), mode="mirror").var() for one in video]
    np.testing.assert_allclose(curves["detail"], exact, rtol=1e-6)


def test_a_blur_ramp_loses_the_detail_that_theory_says() -> None:
    """Parseval: the mean over frequencies of what the blur and the Laplacian let through; rounding adds 20 / 12."""
    sigmas = [1.0, 1.4, 1.8, 2.2]
    video = np.concatenate([blur(sigma) for sigma in sigmas])
    w = 2 * np.pi * np.fft.fftfreq(128)
    x, y = np.meshgrid(w, w)
    through = (4 - 2 * np.cos(x) - 2 * np.cos(y)) ** 2
    expected = [127.5**2 * (through * np.exp(-(s**2) * (x**2 + y**2))).mean() + 20 / 12 for s in sigmas]
    np.testing.assert_allclose(measured(Sharpness(), video)[0]["detail"], expected, rtol=0.1)


@pytest.mark.parametrize("blocks", [WAN, POCKET])
def test_seams_of_known_height_are_found(blocks: Blocks) -> None:
    curves, figures = measured(Seams(), stepping(60, blocks, inside=2, across=7), blocks=blocks)
    assert figures["seam_ratio"] == pytest.approx(3.5)
    begins = np.flatnonzero(~np.isnan(curves["seam"]))
    assert begins.tolist() == list(range(blocks.first, 60, blocks.period))
    np.testing.assert_allclose(curves["seam"][begins], 3.5)


def test_a_video_without_seams_is_seamless_and_one_without_blocks_is_not_measured() -> None:
    assert measured(Seams(), stepping(60, WAN, inside=2, across=2), blocks=WAN)[1]["seam_ratio"] == pytest.approx(1)
    assert np.isnan(measured(Seams(), frozen(60), blocks=WAN)[1]["seam_ratio"])
    assert measured(Seams(), frozen(9)) == ({}, {})


def test_blocks_follow_from_the_codec() -> None:
    assert Blocks.of(lambda frames: 1 + 4 * (frames - 1), 3) == WAN
    assert Blocks.of(lambda frames: frames, 3) == POCKET


def test_latent_statistics_are_what_numpy_says() -> None:
    latents = torch.randn(7, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 + 1
    metric = LatentStatistics()
    metric.start("a video", 8.0)
    parts = [metric.update_latents(latents[:3], 0), metric.update_latents(latents[3:], 3)]
    curves = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    flat = latents.numpy().reshape(7, -1).astype(np.float64)
    np.testing.assert_allclose(curves["latent_mean"], flat.mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(curves["latent_spread"], flat.std(1), rtol=1e-5)
    np.testing.assert_allclose(curves["latent_largest"], abs(flat).max(1), rtol=1e-6)
    assert metric.finish()["latent_largest_ever"] == pytest.approx(abs(flat).max())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_bad_latent_is_seen(bad: float) -> None:
    latents = torch.zeros(2, 4, 8, 8, dtype=torch.bfloat16)
    latents[1, 2, 3, 4] = bad
    figures = latent_statistics(latents)
    assert figures[0].tolist() == [0, 0, 0]
    assert not figures[1].isfinite().any()
    metric = LatentStatistics()
    metric.start("a video", 8.0)
    metric.update_latents(latents, 0)
    metric.update_latents(latents[:1], 2)
    assert not np.isfinite(metric.finish()["latent_largest_ever"])
