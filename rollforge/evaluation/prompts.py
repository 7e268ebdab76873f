"""Figures over prompts: means with bootstrap intervals, of which each prompt has one vote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rollforge.metrics.interval import Interval, interval
from rollforge.metrics.interval import over_prompts as over_summaries
from rollforge.metrics.summary import Curve

NAN = float("nan")
Figures = dict[str, dict[str, float]]  # by curve, then by figure; None counts as NaN
Intervals = dict[str, dict[str, Interval]]
Video = Mapping[str, Any]  # as in metrics.json


def over_prompts(videos: Sequence[Video]) -> Intervals:
    """Every figure of every curve; of several videos of one prompt the mean is taken first."""
    return over_summaries([_together([video["summary"] for video in group]) for group in by_prompt(videos)])


def marks(videos: Sequence[Video]) -> dict[int, dict[str, Interval]]:
    """Every curve at each multiple of the horizon."""
    found: dict[int, dict[str, Interval]] = {}
    for x in sorted({int(x) for video in videos for x in video["marks"]}):
        groups = [_together([{"": video["marks"].get(str(x), {})} for video in group]) for group in by_prompt(videos)]
        names = dict.fromkeys(name for group in groups for name in group[""])
        found[x] = {name: interval([group[""].get(name, NAN) for group in groups]) for name in names}
    return found


def by_prompt(videos: Iterable[Video]) -> list[list[Video]]:
    """Videos of one prompt together, in the order of their first."""
    groups: dict[str, list[Video]] = {}
    for video in videos:
        groups.setdefault(video["prompt"], []).append(video)
    return list(groups.values())


def band(values: Curve, draws: int = 1000, seed: int = 0) -> tuple[Curve, Curve, Curve]:
    """Mean over prompts of a curve, and the bounds of its 95 % interval: of ``[prompts, points]``, ``[points]`` each.

    The percentile bootstrap of ``interval`` for all points at once, of the same prompts in each draw.
    """
    known = np.isfinite(values)
    filled = np.where(known, values, 0)
    count = len(values)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)  # [draws, prompts]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (drawn @ filled) / (drawn @ known)
        mean = filled.sum(axis=0) / known.sum(axis=0)
    low, high = np.full_like(mean, NAN), np.full_like(mean, NAN)
    enough = known.sum(axis=0) > 1
    if enough.any():
        low[enough], high[enough] = np.nanquantile(means[:, enough], (0.025, 0.975), axis=0)
    return mean, low, high


def _together(figures: Sequence[Mapping[str, Mapping[str, float | None]]]) -> Figures:
    """The means of the figures of several videos."""
    gathered: dict[str, dict[str, list[float]]] = {}
    for one in figures:
        for curve, own in one.items():
            numbers = gathered.setdefault(curve, {})
            for name, value in own.items():
                numbers.setdefault(name, []).append(NAN if value is None else value)
    return {curve: {name: _mean(values) for name, values in own.items()} for curve, own in gathered.items()}


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return sum(known) / len(known) if known else NAN
