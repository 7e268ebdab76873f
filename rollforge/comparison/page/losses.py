"""Loss curves of trained points: a picture for each loss, a line for each point."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from html import escape
from io import StringIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rollforge.comparison.page.html import COLOURS
from rollforge.comparison.page.series import binned
from rollforge.comparison.run_result import RunResult
from rollforge.errors import UserError
from rollforge.files.reading import read_text

Curve = NDArray[np.float64]
"""``[2, steps]``: steps and losses."""
WIDE, HIGH, LEFT, RIGHT, TOP, BOTTOM = 420, 200, 52, 14, 8, 22
POINTS, TICKS = 300, 4
FILE_SIZE = 500_000_000  # bytes of a losses.csv


def pictures(points: Sequence[RunResult]) -> str:
    """A card for each loss that some point has; empty where no point was trained. HTML."""
    read = [_losses(point.losses) if point.losses else {} for point in points]
    names = list(dict.fromkeys(name for losses in read for name in losses if name.startswith("loss")))
    return "".join(_card(name, [losses.get(name) for losses in read]) for name in names)


def _losses(file: Path) -> dict[str, Curve]:
    """The columns of a ``losses.csv``; nothing of one that cannot be read."""
    try:
        rows = list(csv.DictReader(StringIO(read_text(file, FILE_SIZE, "file of losses"))))
        names = [name for name in rows[0] if name != "step"] if rows else []
        return {
            name: np.array([[float(row["step"]), float(row[name])] for row in rows if row[name]]).T for name in names
        }
    except (UserError, KeyError, ValueError, TypeError):
        return {}


def _card(name: str, curves: Sequence[Curve | None]) -> str:
    shown = {n: _smooth(curve) for n, curve in enumerate(curves) if curve is not None and curve.size}
    low, high = _bounds(shown)
    last = max((curve[0, -1] for curve in shown.values()), default=1.0)

    def x(step: float) -> float:
        return LEFT + (WIDE - LEFT - RIGHT) * step / last

    def y(value: float) -> float:
        return HIGH - BOTTOM - (HIGH - TOP - BOTTOM) * (value - low) / (high - low)

    rules = "".join(
        f'<line class="rule" x1="{LEFT}" x2="{WIDE - RIGHT}" y1="{y(each):.1f}" y2="{y(each):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y(each) + 3.5:.1f}" text-anchor="end">{each:.3g}</text>'
        for each in np.linspace(low, high, TICKS)
    )
    steps = "".join(
        f'<text x="{x(each):.1f}" y="{HIGH - 6}" text-anchor="middle">{each:.0f}</text>' for each in (0, last / 2, last)
    )
    lines = "".join(
        f'<path class="line s{n % COLOURS}" data-point="{n}" d="M'
        + "L".join(f"{x(step):.1f} {y(value):.1f}" for step, value in curve.T)
        + '"/>'
        for n, curve in shown.items()
    )
    title = escape(f"{name} over training steps")
    return (
        f'<article class="card losses"><h3>{escape(name)}</h3><p>training, over steps</p><div class="chart">'
        f'<svg viewBox="0 0 {WIDE} {HIGH}" width="100%" role="img" aria-label="{title}">{rules}{steps}{lines}</svg>'
        "</div></article>"
    )


def _smooth(curve: Curve) -> Curve:
    """Means of at most ``POINTS`` stretches."""
    return np.stack([binned(row, POINTS) for row in curve])


def _bounds(curves: Mapping[int, Curve]) -> tuple[float, float]:
    """The smallest and the largest finite loss, a little apart at least."""
    values = [value for curve in curves.values() for value in curve[1] if np.isfinite(value)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    return (low, high) if high - low > 1e-9 else (low - 0.5, high + 0.5)
