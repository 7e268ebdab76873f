"""Means over prompts with their uncertainty: a mean is never reported alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NAN = float("nan")


class Interval(NamedTuple):
    """A mean and the bounds of its confidence interval; the bounds are NaN where one value or none is known."""

    mean: float
    low: float
    high: float
    values: int  # that are numbers

    def __str__(self) -> str:
        bounds = f"{self.low:.3g} to {self.high:.3g}" if self.values > 1 else "no interval"
        return f"{self.mean:.3g} ({bounds}, n={self.values})"


def interval(values: Iterable[float], level: float = 0.95, draws: int = 2000, seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean (Efron), drawn over the values, one for each prompt; NaN values are left out.

    Of few values the interval is too narrow: of normal values, 95 % intervals hold the true mean in about 90 % of cases
    with 10 values and in 94 % with 30.
    """
    known = np.array([value for value in values if not np.isnan(value)])
    if not len(known):
        return Interval(NAN, NAN, NAN, 0)
    if len(known) == 1:
        return Interval(float(known[0]), NAN, NAN, 1)
    means = drawn(len(known), draws, seed) @ known / len(known)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(known.mean()), float(low), float(high), len(known))


@lru_cache(maxsize=4)
def drawn(count: int, draws: int, seed: int) -> NDArray[np.float64]:
    """How often each of ``count`` values is in each of ``draws`` resamples, ``[draws, count]``: always the same."""
    places = np.random.default_rng(seed).integers(count, size=(draws, count))
    places += count * np.arange(draws)[:, None]
    return np.bincount(places.ravel(), minlength=draws * count).reshape(draws, count).astype(np.float64)


def over_prompts(
    summaries: Sequence[Mapping[str, Mapping[str, float]]], level: float = 0.95
) -> dict[str, dict[str, Interval]]:
    """Every value of every curve (see ``summarise``) over the videos of several prompts."""
    names = list(dict.fromkeys(name for summary in summaries for name in summary))
    found: dict[str, dict[str, Interval]] = {}
    for name in names:
        own = [summary[name] for summary in summaries if name in summary]
        figures = dict.fromkeys(figure for one in own for figure in one)
        found[name] = {figure: interval([one.get(figure, NAN) for one in own], level) for figure in figures}
    return found
