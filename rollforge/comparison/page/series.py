"""Curves as the page draws them: few enough points, with the interval over prompts at each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollforge.comparison.run_result import Comparison, Key, RunResult
from rollforge.evaluation.prompts import band
from rollforge.metrics.curves import read_curves

Numbers = NDArray[np.float64]
POINTS = 400
BUDGET, FEWEST, MOST = 150_000, 40, 200
"""Numbers for the curves of single prompts, all together; and for one curve."""
AXES = ("frame", "seconds")


def series(comparison: Comparison) -> list[dict[str, Any]]:
    """Each curve with its points' means, bounds, and every prompt's own curve, at times in seconds."""
    read = [_read(point, comparison) for point in comparison.measured]
    names = list(dict.fromkeys(name for columns in read for column in columns for name in column if name not in AXES))
    count = max(1, len(names) * len(read) * len(comparison.keys))
    fine = min(MOST, max(FEWEST, BUDGET // count))
    return [
        {
            "name": name,
            "direction": comparison.direction(name),
            "truth": _number(comparison.truth.get(name)),
            "points": [_point(comparison.keys, columns, name, fine) for columns in read],
        }
        for name in names
    ]


def binned(curve: Numbers, count: int) -> Numbers:
    """Means of at most ``count`` equal stretches of ``[T]``; NaN is left out, and stays where nothing else is."""
    if len(curve) <= count:
        return curve
    known = ~np.isnan(curve)
    starts = np.linspace(0, len(curve), count, endpoint=False).astype(int)
    sums = np.add.reduceat(np.where(known, curve, 0.0), starts)
    found = np.add.reduceat(known.astype(float), starts)
    return np.divide(sums, found, out=np.full(count, np.nan), where=found > 0)


def _read(point: RunResult, comparison: Comparison) -> list[dict[str, Numbers]]:
    """The columns of each video, of its frames and of its latents; latents keep their own seconds under their name."""
    found = []
    for key in comparison.keys:
        columns: dict[str, Numbers] = {}
        video = point.videos.get(key, {})
        for what in ("curves", "latents"):
            if path := point.path(video, what):
                columns |= _columns(read_curves(path))
        found.append(columns)
    return found


def _columns(table: dict[str, Numbers]) -> dict[str, Numbers]:
    """Each curve as ``[2, T]``: seconds, and the curve."""
    return {name: np.stack([table["seconds"], curve]) for name, curve in table.items() if name not in AXES}


def _point(keys: Sequence[Key], columns: Sequence[dict[str, Numbers]], name: str, fine: int) -> dict[str, Any] | None:
    """One curve of one point, None where it has none."""
    named = [(prompt, column[name]) for (_, prompt), column in zip(keys, columns, strict=True) if name in column]
    if not named:
        return None
    own = [curve for _, curve in named]
    length = max(curve.shape[1] for curve in own)
    times = next(curve[0] for curve in own if curve.shape[1] == length)
    whole = np.full((len(own), length), np.nan)
    for row, curve in zip(whole, own, strict=True):
        row[: curve.shape[1]] = curve[1]
    rows = np.stack([binned(row, POINTS) for row in whole])
    prompts = [prompt for prompt, _ in named]
    alike = [[n for n, other in enumerate(prompts) if other == prompt] for prompt in dict.fromkeys(prompts)]
    rows = np.stack([rows[members].mean(axis=0) for members in alike])  # each prompt has one vote
    mean, low, high = band(rows) if len(rows) > 1 else (rows[0], rows[0], rows[0])
    each = [_numbers(binned(column[name][1], fine)) if name in column else None for column in columns]
    return {
        "times": _span(times, POINTS),
        "mean": _numbers(mean),
        **({"low": _numbers(low), "high": _numbers(high)} if len(rows) > 1 else {}),
        "fine": _span(times, fine),
        "each": each,
    }


def _span(times: Numbers, count: int) -> list[float | None]:
    """The first and the last time of a binned curve; the others lie evenly between them."""
    shown = binned(times, count)
    return _numbers(shown[[0, -1]])


def _numbers(values: Numbers) -> list[float | None]:
    return [_number(value) for value in values.tolist()]


def _number(value: float | None) -> float | None:
    """Four digits are more than a pixel; JSON knows no NaN."""
    return None if value is None or not np.isfinite(value) else float(f"{value:.4g}")
