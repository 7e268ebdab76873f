"""Paired differences: by prompt, with one stream of resamples, and a star only where chance does not explain them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rollforge.cli import main
from rollforge.comparison.paired import DRAWS, LATE, SEED, excludes_zero, paired
from rollforge.comparison.run_result import Comparison, RunResult
from rollforge.comparison.tables import markdown

PROMPTS = [f"prompt {n}" for n in range(12)]
HARD = np.linspace(0, 1, len(PROMPTS))
"""How much every method fails at each prompt: more than the methods differ."""


def point(label: str, shift: float, motion: float = 1.0, **more: Any) -> RunResult:
    """A point that is better or worse than others by ``shift`` at every prompt, and moves less later."""
    videos: dict[Any, Any] = {}
    for seed in (0, 1):
        for prompt, hard in zip(PROMPTS, HARD, strict=True):
            wobble = 0.02 * np.sin(17 * hard + seed)
            late = {"landscape": hard + shift + wobble, "motion": 0.5 * motion}
            marks = {"1": {"landscape": hard, "motion": 0.5}, "20": late}
            video = {"prompt": prompt, "summary": {"landscape": {}, "motion": {}}, "marks": marks, **more}
            videos[seed, prompt] = video
    return RunResult(label, None, {}, {}, {}, videos)  # type: ignore[arg-type]


COMPARISON = Comparison([point("Window", 0.0), point("RollingSink", -0.1, 0.8), point("Other", 0.0005)])


def test_differences_are_taken_prompt_by_prompt() -> None:
    rows = {(row.curve, row.mark, row.label): row for row in paired(COMPARISON, ["Window", "RollingSink"])}
    far = rows["landscape", 20, "RollingSink"]
    assert far.figure.high - far.figure.low > 0.3  # the prompts differ more than the methods
    difference = far.differences["Window"]
    assert difference.mean == pytest.approx(-0.1)
    assert difference.values == len(PROMPTS)
    assert excludes_zero(difference)
    assert "RollingSink" not in far.differences
    assert rows["landscape", 20, "Window"].differences["RollingSink"].mean == pytest.approx(0.1)
    assert not excludes_zero(rows["landscape", 1, "RollingSink"].differences["Window"])
    late = rows[LATE, 20, "RollingSink"]
    assert late.figure.mean == pytest.approx(0.8)
    assert late.differences["Window"].mean == pytest.approx(-0.2)


def test_the_interval_is_a_bootstrap_of_4000_draws_from_one_stream() -> None:
    noisy = Comparison([point("Window", 0.0), point("Noisy", 0.0)])
    for n, video in enumerate(noisy.measured[1].videos.values()):
        video["marks"]["20"]["landscape"] += 0.3 * np.cos(5 * n)
    (row,) = [
        row for row in paired(noisy, ["Window"]) if (row.curve, row.mark, row.label) == ("landscape", 20, "Noisy")
    ]
    values = np.array([0.15 * (np.cos(5 * n) + np.cos(5 * (n + len(PROMPTS)))) for n in range(len(PROMPTS))])
    drawn = values[np.random.default_rng(SEED).integers(len(values), size=(4000, len(values)))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    found = row.differences["Window"]
    assert DRAWS == 4000
    assert (found.low, found.high) == pytest.approx((low, high))
    assert not excludes_zero(found)


def test_the_tables_have_stars_costs_and_counts() -> None:
    counted = {"read": {"blocks": 40, "older": 33}, "wall_seconds": 80.0, "rolled_together": 2, "bytes_held": 3_500_000}
    measured = Comparison([point("Window", 0.0), point("RollingSink", -0.1, **counted)])
    text = markdown(measured, ["Window"])
    (line,) = [line for line in text.splitlines() if line.startswith("| RollingSink | 20x | 0.4")]
    assert line.rstrip(" |").endswith("\\*")
    assert "| Window | 20x |" in text
    assert "| RollingSink | 1 | 3.5 | 40 | 33 |" in text
    assert "minus" not in markdown(measured)


def test_differences_of_rounding_are_none() -> None:
    text = markdown(Comparison([point("Window", 0.0), point("Same", 1e-16)]), ["Window"])
    shown = [line.split("|")[4].strip() for line in text.splitlines() if line.startswith("| Same | 20x |")]
    assert len(shown) == 3
    assert set(shown) == {"+0 [0, 0]"}


def test_a_point_that_is_not_there_cannot_be_compared_with(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["compare", "--config", "none.yaml", "--vary", "model.policy=Window,RollingSink", "--against", "Windw"]
    assert main(line) == 2
    message = capsys.readouterr().err
    assert "--against names 'Windw', which is not a point of this comparison. Did you mean 'Window'?" in message
    assert message.count("\n") == 1
