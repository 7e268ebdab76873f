"""Differences from some of the points, prompt by prompt, and whether chance explains them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np

from rollforge.comparison.run_result import Comparison, RunResult, number
from rollforge.errors import UserError, nearest
from rollforge.metrics.interval import NAN, Interval, interval
from rollforge.metrics.summary import mean

DRAWS, SEED = 4000, 0
ROUNDING = 1e-12  # a difference below it is one of rounding
"""Resamples of the prompts, the same for every difference."""
LATE, MOTION = "motion, late over early", "motion"
Values = dict[str, float]


@dataclass(frozen=True)
class PairedRow:
    """A curve of one point over the window that ends at a multiple of the horizon.

    Args:
        curve: its name.
        mark: the multiple of the horizon.
        label: of the point.
        figure: over prompts.
        differences: from each of the points that are compared with, by label; of the prompts that both have.
    """

    curve: str
    mark: int
    label: str
    figure: Interval
    differences: Mapping[str, Interval]


def check_against(against: Sequence[str], labels: Sequence[str]) -> None:
    """Raises ``UserError`` for a point to compare with that is not one of those that are measured."""
    for label in against:
        if label not in labels:
            raise UserError(
                f"--against names {label!r}, which is not a point of this comparison.{nearest(label, labels)} "
                f"The points are {', '.join(labels)}."
            )


def paired(comparison: Comparison, against: Sequence[str]) -> list[PairedRow]:
    """Every curve at every mark, in the order of the curves, the marks and the points."""
    points = {point.label: point for point in comparison.measured}
    rows = []
    for curve in [*comparison.curves, *([LATE] if MOTION in comparison.curves else [])]:
        for mark in comparison.marks:
            values = {label: at_mark(point, curve, mark) for label, point in points.items()}
            rows += [
                PairedRow(curve, mark, label, _over(own.values()), _differences(own, label, values, against))
                for label, own in values.items()
                if own
            ]
    return rows


def at_mark(point: RunResult, curve: str, mark: int) -> Values:
    """A curve by prompt; of several videos of a prompt, such as those of two seeds, the mean."""
    found: dict[str, list[float]] = {}
    for (_, prompt), video in point.videos.items():
        marks = video.get("marks") or {}
        if (here := marks.get(str(mark))) is not None:
            first = number((marks.get("1") or {}).get(MOTION))
            value = number(here.get(MOTION)) / (first or NAN) if curve == LATE else number(here.get(curve))
            found.setdefault(prompt, []).append(value)
    return {prompt: mean(np.array(values)) for prompt, values in found.items()}


def excludes_zero(difference: Interval) -> bool:
    """Whether the interval of a difference leaves out 0."""
    return difference.values > 1 and (difference.low > ROUNDING or difference.high < -ROUNDING)


def markdown(rows: Sequence[PairedRow], against: Sequence[str]) -> Iterator[str]:
    """A table for each curve; a star where the interval of a difference excludes 0."""
    for curve in dict.fromkeys(row.curve for row in rows):
        lines = [["point", "at", "mean", *(f"minus {label}" for label in against)]]
        lines += [
            [
                row.label,
                f"{row.mark}x",
                _short(row.figure.mean),
                *(with_interval(row.differences.get(each)) for each in against),
            ]
            for row in rows
            if row.curve == curve
        ]
        table = markdown_table(lines[0], lines[1:])
        yield f"{curve}, paired by prompt ({DRAWS:,} resamples; * where the 95 % interval excludes 0):\n\n{table}"


def _differences(own: Values, label: str, values: Mapping[str, Values], against: Sequence[str]) -> dict[str, Interval]:
    return {
        other: _over(value - values[other][prompt] for prompt, value in own.items() if prompt in values[other])
        for other in against
        if other != label and values.get(other)
    }


def _over(values: Iterable[float]) -> Interval:
    return interval(values, draws=DRAWS, seed=SEED)


def with_interval(found: Interval | None, difference: bool = True) -> str:
    """A figure with its interval; of a difference with its sign, and a star where the interval leaves out 0."""
    if found is None or isnan(found.mean):
        return "-"
    bounds = f" [{_short(found.low)}, {_short(found.high)}]" if found.values > 1 else " [n=1]"
    if not difference:
        return f"{_short(found.mean)}{bounds}"
    return f"{_plain(found.mean):+.3g}{bounds}{'*' if excludes_zero(found) else ''}"


def _short(value: float) -> str:
    return "-" if isnan(value) else f"{_plain(value):.3g}"


def _plain(value: float) -> float:
    """A value whose digits are all of rounding is 0."""
    return 0.0 if abs(value) < ROUNDING else value


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of texts."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_escaped, line)) + " |" for line in lines)


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("*", "\\*")
