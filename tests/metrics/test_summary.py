"""Summaries of curves whose drift is known, against scipy and numpy; intervals that hold what they promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import theilslopes

from rollforge.errors import UserError
from rollforge.metrics.curves import CurveFile, read_curves
from rollforge.metrics.interval import interval, over_prompts
from rollforge.metrics.summary import (
    clips,
    drift_error,
    ends,
    seconds_at_ends,
    slope_per_minute,
    summarise,
    within_and_between,
    worst_clip,
)

FPS = 16.0


def test_ends_of_a_ramp() -> None:
    assert ends(np.arange(100.0)) == (7, 92)
    assert ends(np.array([5.0])) == (5, 5)
    assert seconds_at_ends(np.arange(160.0), FPS) == (39.5, 119.5)
    assert np.isnan(seconds_at_ends(np.arange(159.0), FPS)).all()


def test_what_is_not_a_number_is_left_out() -> None:
    curve = np.where(np.arange(100) % 2, np.nan, np.arange(100.0))
    assert ends(curve) == (7, 92)
    figures = summarise({"flow_top": curve}, FPS, 1.0)["flow_top"]
    assert figures["level"] == 49
    assert figures["slope_per_minute"] == pytest.approx(60 * FPS)
    nothing = summarise({"flow_top": np.full(40, np.nan)}, FPS, 1.0)["flow_top"]
    assert all(np.isnan(value) for value in nothing.values())


def test_vde_is_the_weighted_sum_of_the_paper() -> None:
    means = [2.0, 2, 3, 2, 2, 2, 2, 2, 2, 1]
    expected = (8 * 1 + 1 * 1) / 2  # chunk 3 has weight 10 - 3 + 1, chunk 10 has weight 1
    assert drift_error(np.repeat(means, 7)) == pytest.approx(expected)
    assert drift_error(np.full(50, 4.0)) == 0
    assert np.isnan(drift_error(np.arange(9.0)))
    assert np.isnan(drift_error(np.repeat([0.0, *means[1:]], 7)))
    assert drift_error(-np.repeat(means, 7)) == pytest.approx(expected)


def test_slope_is_that_of_scipy() -> None:
    drawn = np.random.default_rng(0)
    for count in (2, 50, 600):
        curve = 0.02 * np.arange(count) + drawn.standard_cauchy(count)
        expected = theilslopes(curve, np.arange(count) / (60 * FPS)).slope
        assert slope_per_minute(curve, FPS) == pytest.approx(expected)
    assert np.isnan(slope_per_minute(np.array([1.0]), FPS))


def test_slope_of_an_hour_is_near_that_of_scipy_and_a_few_outliers_do_not_move_it() -> None:
    drawn = np.random.default_rng(0)
    curve = 50 + 0.001 * np.arange(57_600) + drawn.normal(0, 1, 57_600)
    curve[1000:1500] = 255
    assert slope_per_minute(curve, FPS) == pytest.approx(0.96, rel=0.01)
    few = curve[2000:5000]
    expected = theilslopes(few[::3], np.arange(0, 3000, 3) / (60 * FPS)).slope
    assert slope_per_minute(few, FPS) == pytest.approx(expected, abs=0.1)
    assert slope_per_minute(np.arange(3000.0), FPS) == pytest.approx(60 * FPS)


def test_the_worst_clip_depends_on_what_is_bad() -> None:
    curve = np.repeat([0.5, 0.9, 0.4, 0.6], 16)
    figures = {name: summarise({name: curve}, FPS, 1.0)[name] for name in ("presence", "colour_error", "lightness")}
    assert (figures["presence"]["worst_clip"], figures["presence"]["worst_clip_at"]) == (0.4, 2)
    assert figures["colour_error"]["worst_clip"] == 0.9
    assert (figures["lightness"]["worst_clip"], figures["lightness"]["worst_clip_at"]) == (0.9, 1)
    assert figures["lightness"]["largest_deviation"] == pytest.approx(0.4)
    assert all(one["level"] == pytest.approx(0.6) for one in figures.values())
    assert worst_clip(np.array([np.nan, 1, 2])) == 2
    assert worst_clip(np.array([np.nan])) is None


def test_the_last_clip_ends_with_the_video() -> None:
    assert clips(np.arange(10.0), 1.0, 4).tolist() == [1.5, 5.5, 7.5]
    assert clips(np.arange(8.0), 1.0, 4).tolist() == [1.5, 5.5]
    assert clips(np.arange(3.0), 1.0, 4).tolist() == [1]
    assert summarise({"a": np.arange(10.0)}, 1.0, 4)["a"]["worst_clip_at"] == 6


def test_intervals_hold_the_true_mean_as_often_as_they_say() -> None:
    drawn = np.random.default_rng(0)
    held = [low <= 3 <= high for _, low, high, _ in (interval(drawn.normal(3, 2, 30), draws=500) for _ in range(400))]
    assert np.mean(held) == pytest.approx(0.94, abs=0.03)


def test_intervals_of_little() -> None:
    assert interval([1.0, float("nan"), 3.0]).mean == 2
    assert interval([1.0, float("nan"), 3.0]).values == 2
    assert str(interval([2.0])) == "2 (no interval, n=1)"
    assert np.isnan(interval([]).mean)
    one, two = interval(range(20)), interval(range(20))
    assert one == two
    assert one.low < one.mean < one.high
    assert str(one).startswith("9.5 (")


def test_figures_over_prompts() -> None:
    summaries = [summarise({"flicker": np.full(20, value)}, FPS, 1.0) for value in (1.0, 2.0, 3.0)]
    table = over_prompts(summaries)
    assert table["flicker"]["level"].mean == 2
    assert table["flicker"]["level"].low >= 1
    assert np.isnan(table["flicker"]["first_5s"].mean)


def test_curves_are_written_as_they_come_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    file = CurveFile(path, 8.0)
    for start in (0, 3, 6):
        file.add({"flicker": torch.arange(start, start + 3) / 7, "seam": torch.full((3,), torch.nan)}, start)
    curves = read_curves(path)
    assert path.read_text().splitlines()[0] == "frame,seconds,flicker,seam"
    assert curves["frame"].tolist() == list(range(9))
    np.testing.assert_allclose(curves["seconds"], np.arange(9) / 8)
    np.testing.assert_allclose(curves["flicker"], np.arange(9) / 7, rtol=1e-6)
    assert np.isnan(curves["seam"]).all()


def test_curves_go_on_where_a_snapshot_was_taken(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    CurveFile(path, 8.0).add({"flicker": torch.zeros(6)}, 0)
    again = CurveFile(path, 8.0, frames=4)
    again.add({"flicker": torch.ones(2), "new": torch.ones(2)}, 4)
    assert read_curves(path)["flicker"].tolist() == [0, 0, 0, 0, 1, 1]
    with pytest.raises(UserError, match="6 frames where 9 were made"):
        CurveFile(path, 8.0, frames=9)


def test_change_is_taken_apart_in_clips_and_between_them() -> None:
    """By the rule of VBench-Long, with differences: against the first and against the one before, mean of both."""
    curve = np.random.default_rng(3).normal(size=37)
    curve[[4, 20]] = np.nan
    clips = [curve[start : start + 8] for start in (0, 8, 16, 24, 29)]

    def rule(values: np.ndarray) -> float:
        known = [value for value in values if not np.isnan(value)]
        pairs = [(abs(known[t] - known[0]) + abs(known[t] - known[t - 1])) / 2 for t in range(1, len(known))]
        return float(np.mean(pairs))

    within, between = within_and_between(curve, 4.0)
    assert within == pytest.approx(np.mean([rule(clip) for clip in clips]))
    assert between == pytest.approx(rule(np.array([np.nanmean(clip) for clip in clips])))
    assert within_and_between(np.repeat([0.0, 5.0, 3.0], 8), 4.0) == (0.0, 3.75)  # (5 + 5 + 3 + 2) / 4
    assert np.isnan(within_and_between(curve[:6], 4.0)[1])
