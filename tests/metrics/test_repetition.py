"""Repetition: loops of known period against an exhaustive search, and a sink collapse at a known time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from known_videos import Video, collapse, frozen, loop, measured, noisy, to_bytes, wandering

from rollforge.metrics.repetition import Repetition
from rollforge.metrics.strided_buffer import MinBuffer, StridedBuffer


def by_hand(video: Video) -> np.ndarray:
    """Distances of all pairs of frames, from thumbnails averaged in numpy."""
    luma = np.rint(video @ np.array([0.299, 0.587, 0.114]))
    small = np.rint(luma.reshape(len(video), 16, video.shape[1] // 16, 16, -1).mean((2, 4))).reshape(len(video), -1)
    return np.array([[np.sqrt(np.square(one - two).mean()) for two in small] for one in small])


def loops_by_hand(video: Video) -> tuple[int, float]:
    apart = by_hand(video)
    profile = [np.diag(apart, lag).mean() for lag in range(1, len(video) // 2 + 1)]
    found = [1 - profile[lag] / max(np.mean(profile[: lag + 1]), 1) for lag in range(len(profile))]
    return int(np.argmax(found)) + 1, max(found)


@pytest.mark.parametrize("period", [7, 12, 31])
@pytest.mark.parametrize("noise", [0.0, 10.0])
def test_a_loop_has_its_period(period: int, noise: float) -> None:
    video = noisy(loop(100, period), noise)
    curves, figures = measured(Repetition(), video)
    assert figures["loop_seconds"] * 8 == period
    assert figures["loop_strength"] > (0.98 if noise == 0 else 0.8)
    assert curves["recurrence"][period + 2 :].min() > (0.98 if noise == 0 else 0.75)
    assert curves["recurrence"][: period // 2].max() < 0.1


def test_loops_and_strength_are_those_of_an_exhaustive_search() -> None:
    video = noisy(loop(70, 23), 5)
    lag, strength = loops_by_hand(video)
    figures = measured(Repetition(), video)[1]
    assert figures["loop_seconds"] * 8 == lag == 23
    assert figures["loop_strength"] == pytest.approx(strength, abs=0.02)  # OpenCV may round luma the other way


def test_recurrence_is_that_of_an_exhaustive_search() -> None:
    video = noisy(loop(60, 23), 5)
    apart = by_hand(video)
    expected = []
    for t in range(60):
        lags = apart[t, :t][::-1]
        found = [1 - lags[n] / max(np.mean(lags[: n + 1]), 1) for n in range(t)]
        expected.append(max(0.0, *found, 0.0))
    np.testing.assert_allclose(measured(Repetition(), video)[0]["recurrence"], expected, atol=0.03)


@pytest.mark.parametrize("kind", ["wandering", "drifting", "frozen"])
def test_what_does_not_come_back_does_not_loop(kind: str) -> None:
    grey = np.linspace(30, 220, 80)[:, None, None, None] + np.zeros((80, 32, 32, 3))
    video = {
        "wandering": lambda: to_bytes(wandering(80)),
        "drifting": lambda: to_bytes(grey),
        "frozen": lambda: frozen(80),
    }
    curves, figures = measured(Repetition(), video[kind]())
    assert figures["loop_strength"] < 0.3
    assert np.isnan(figures["loop_seconds"])
    assert np.nanmax(curves["recurrence"]) < 0.5


def test_a_long_loop_is_exact_within_the_window_and_known_to_the_stride_beyond() -> None:
    """400 frames: held whole in a window of 512; with one of 64 only the thinned store, here 8 frames apart, knows."""
    video = to_bytes(loop(400, 150, size=16))
    assert measured(Repetition(), video)[1]["loop_seconds"] * 8 == 150
    far = Repetition(window=64, whole=64)
    assert measured(far, video)[1]["loop_seconds"] * 8 == pytest.approx(150, abs=8)
    assert far.old.stride == 8


def test_a_loop_is_exact_in_a_video_much_longer_than_the_window() -> None:
    video = to_bytes(loop(600, 29, size=16))
    assert measured(Repetition(window=64, whole=32), video)[1]["loop_seconds"] * 8 == 29


@pytest.mark.parametrize("noise", [0.0, 6.0])
def test_a_sink_collapse_is_found_when_it_happens(noise: float) -> None:
    curves, figures = measured(Repetition(sink=9), noisy(collapse(120, at=80), noise))
    assert figures["sink_collapse"] > (0.98 if noise == 0 else 0.85)
    assert figures["sink_drop"] == pytest.approx(1, abs=0.35)  # the highest distance stands over the median one
    assert 80 / 8 <= figures["sink_drop_seconds"] <= 90 / 8
    assert curves["sink_distance"][80:90].max() < 0.2 * np.median(curves["sink_distance"])


def test_sink_distances_are_those_of_an_exhaustive_search() -> None:
    video = noisy(collapse(60, at=40), 6)
    expected = by_hand(video)[:, :9].min(axis=1)
    np.testing.assert_allclose(measured(Repetition(sink=9), video)[0]["sink_distance"], expected, atol=0.15)


def test_a_video_that_stays_away_does_not_collapse_and_a_flash_is_no_drop() -> None:
    video = wandering(100, seed=5)
    calm = measured(Repetition(), to_bytes(video))[1]
    assert calm["sink_collapse"] < 0.4
    video[50] = 255
    flash = measured(Repetition(), to_bytes(video))[1]
    assert flash["sink_drop"] == pytest.approx(calm["sink_drop"], abs=0.1)


def test_lags_are_not_taken_across_a_gap() -> None:
    metric, video = Repetition(), torch.from_numpy(to_bytes(loop(100, 12)))
    metric.start("a video", 8.0)
    metric.update(video[:40], 0)
    metric.update(video[47:], 47)
    assert metric.finish()["loop_seconds"] * 8 == 12


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 16, 17, 100])
def test_thinned_keeps_every_so_manieth(length: int) -> None:
    rows, lows = StridedBuffer(8, 1), MinBuffer(8, 1)
    values = torch.randperm(100, generator=torch.Generator().manual_seed(0)).float()
    for n in range(length):
        rows.add(torch.tensor([float(n)]))
        lows.add(values[n : n + 1])
    assert rows.kept.flatten().tolist() == list(range(0, length, rows.stride))
    assert lows.kept.flatten().tolist() == [
        min(values[n : min(n + lows.stride, length)].tolist()) for n in range(0, length, lows.stride)
    ]
    assert len(rows.kept) <= 8
    assert length <= 8 or len(rows.kept) > 4
