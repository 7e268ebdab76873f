"""Points in order: by a stated direction, one measure at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rollforge.comparison.page.series import binned, series
from rollforge.comparison.ranking import rankings
from rollforge.comparison.run_result import Comparison, RunResult
from rollforge.comparison.tables import markdown, summary

PROMPTS = ["a", "b", "c", "d"]


def point(label: str, presence: list[float | None], drift: float = 0.1, sharpness: float = 10.0) -> RunResult:
    """A point with a summary for each prompt."""
    videos: dict[Any, Any] = {}
    for sample, (prompt, level) in enumerate(zip(PROMPTS, presence, strict=True)):
        curves = {
            "presence": {"level": level, "drift_15": -drift},
            "sharpness": {"level": sharpness, "drift_15": drift * (1 if sample % 2 else -1)},
        }
        marks = {"1": {"presence": level, "sharpness": sharpness}}
        videos[sample, prompt] = {"prompt": prompt, "summary": curves, "marks": marks}
    return RunResult(label, None, {}, {"policy": None}, {}, videos)  # type: ignore[arg-type]


def test_levels_are_ranked_by_the_direction_that_is_said() -> None:
    low, high = point("low", [0.5, 0.6, 0.5, 0.6]), point("high", [0.9, 0.8, 0.9, 0.8])
    presence, sharpness = rankings(Comparison([low, high]))
    assert (presence.curve, presence.direction) == ("presence", "higher is better")
    assert [(row.label, row.level.rank) for row in presence.rows] == [("high", 1), ("low", 2)]
    assert presence.rows[1].level.apart
    assert sharpness.direction == ""
    assert [row.level.rank for row in sharpness.rows] == [None, None]


def test_curves_of_plugins_are_ranked_as_their_metric_says() -> None:
    blunt, sharp = point("blunt", [0.5] * 4, sharpness=3.0), point("sharp", [0.5] * 4, sharpness=9.0)
    for better, first in (("higher", "sharp"), ("lower", "blunt")):
        points = [replace(each, metrics={"better": {"sharpness": better}}) for each in (blunt, sharp)]
        _, sharpness = rankings(Comparison(points))
        assert (sharpness.direction, sharpness.rows[0].label) == (f"{better} is better", first)
        assert sharpness.rows[0].level.rank == 1
    disagreeing = [replace(blunt, metrics={"better": {"sharpness": "lower"}}), sharp]
    assert rankings(Comparison(disagreeing))[1].direction == ""


def test_drift_counts_without_its_sign_and_prompt_by_prompt() -> None:
    steady, moving = point("steady", [0.5] * 4, drift=0.1), point("moving", [0.5] * 4, drift=0.3)
    _, sharpness = rankings(Comparison([moving, steady]))
    assert [(row.label, row.drift.rank) for row in sharpness.rows] == [("steady", 1), ("moving", 2)]
    assert sharpness.rows[0].drift.figure.mean == pytest.approx(0.1)  # signs would have cancelled


def test_what_cannot_be_told_apart_is_marked_and_equals_share_a_rank() -> None:
    one, near = point("one", [0.5, 0.9, 0.4, 0.8]), point("near", [0.6, 0.7, 0.5, 0.7])
    presence, _ = rankings(Comparison([one, near, point("same", [0.5, 0.9, 0.4, 0.8])]))
    ranks = {row.label: row.level.rank for row in presence.rows}
    assert ranks == {"one": 1, "same": 1, "near": 3}
    assert not presence.rows[2].level.apart
    assert "| 3 ~ | near |" in markdown(Comparison([one, near, point("same", [0.5, 0.9, 0.4, 0.8])]))


def test_a_point_without_numbers_has_no_rank() -> None:
    presence, _ = rankings(Comparison([point("none", [None] * 4), point("some", [0.5, None, 0.5, 0.5])]))
    assert [(row.label, row.level.rank) for row in presence.rows] == [("some", 1), ("none", None)]
    assert presence.rows[0].level.figure.values == 3


def test_tables_show_marks_and_ranks_and_no_overall_score() -> None:
    text = markdown(Comparison([point("one|two", [0.5] * 4), point("other", [0.6] * 4)]))
    assert "other" in summary(Comparison([point("one|two", [0.5] * 4), point("other", [0.6] * 4)]))
    assert "one\\|two" in text
    assert "presence (higher is better)" in text
    assert "sharpness (no level is better than another, so levels are not ranked)" in text
    assert "overall" not in text


def test_curves_are_thinned_by_their_means() -> None:
    curve = np.array([1.0, 3.0, np.nan, 5.0, np.nan, np.nan])
    np.testing.assert_array_equal(binned(curve, 3), [2.0, 5.0, np.nan])
    assert binned(curve, 6) is curve


def test_series_hold_a_band_over_prompts_and_each_prompt(finished: Any) -> None:
    from rollforge.comparison.run_result import gather

    comparison = gather(finished(["a", "b", "c"], policies=2))
    found = {curve["name"]: curve for curve in series(comparison)}
    presence = found["presence"]["points"][0]
    assert found["presence"]["truth"] == 0.97
    assert len(presence["mean"]) == len(presence["low"]) == 64
    assert all(
        low <= mean <= high for low, mean, high in zip(*(presence[k] for k in ("low", "mean", "high")), strict=True)
    )
    assert [len(each) for each in presence["each"]] == [64] * 3
    assert presence["times"] == [0.0, 3.938]
    assert found["repetition"]["points"][0]["mean"][0] is None
