"""Points in order, one measure at a time. There is no overall score: how to weigh measures is up to the reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rollforge.comparison.run_result import BETTER, Comparison
from rollforge.metrics.interval import NAN, Interval, interval

STEADIER = "nearer to 0 is steadier"


@dataclass(frozen=True)
class Place:
    """A figure of one point: over prompts, its rank, and whether it differs from the first one's.

    ``rank`` is None where there is no good direction or no number. ``apart`` is true where the 95 % interval of the
    difference from the first, taken prompt by prompt, leaves out 0.
    """

    figure: Interval
    rank: int | None = None
    apart: bool = False


@dataclass(frozen=True)
class Row:
    """A point under one measure: its level, and how far its last 15 % are from its first 15 %, without sign."""

    label: str
    level: Place
    drift: Place


@dataclass(frozen=True)
class Ranking:
    """All points under one measure, best level first; where levels have no good direction, steadiest first.

    ``direction`` says which levels are good, and is empty where none are.
    """

    curve: str
    direction: str
    rows: Sequence[Row]


def rankings(comparison: Comparison) -> list[Ranking]:
    """One for each curve."""
    return [_ranking(comparison, curve) for curve in comparison.curves]


def _ranking(comparison: Comparison, curve: str) -> Ranking:
    direction = comparison.direction(curve)
    sign = -1.0 if direction == BETTER["lowest"] else 1.0
    levels = [point.values(curve, "level") for point in comparison.measured]
    signed = [point.values(curve, "drift_15") for point in comparison.measured]
    drifts = [{prompt: abs(value) for prompt, value in each.items()} for each in signed]
    places = zip(_places(levels, sign if direction else None), _places(drifts, 1.0), strict=True)
    rows = [Row(point.label, *each) for point, each in zip(comparison.measured, places, strict=True)]
    return Ranking(curve, direction, sorted(rows, key=lambda row: _order(row.level if direction else row.drift)))


def _places(values: Sequence[Mapping[str, float]], sign: float | None) -> list[Place]:
    """Ranks by ``sign`` times the mean, smallest first; points with equal means share a rank. None ranks nothing."""
    figures = [interval(each.values()) for each in values]
    scores = [NAN if sign is None else sign * figure.mean for figure in figures]
    if np.isnan(scores).all():
        return [Place(figure) for figure in figures]
    first = values[int(np.nanargmin(scores))]
    ranks = [None if np.isnan(score) else 1 + sum(other < score for other in scores) for score in scores]
    placed = zip(figures, ranks, values, strict=True)
    return [Place(figure, rank, _apart(own, first)) for figure, rank, own in placed]


def _apart(own: Mapping[str, float], first: Mapping[str, float]) -> bool:
    difference = interval(value - first.get(prompt, NAN) for prompt, value in own.items())
    return difference.values > 1 and (difference.low > 0 or difference.high < 0)


def _order(place: Place) -> float:
    return float("inf") if place.rank is None else place.rank
