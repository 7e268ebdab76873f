"""The comparison as Markdown: figures at each mark, and the points in order under each measure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rollforge.comparison import activity, paired
from rollforge.comparison.protocol import Protocol
from rollforge.comparison.ranking import STEADIER, Place, Ranking, rankings
from rollforge.comparison.run_result import Comparison, number
from rollforge.evaluation.prompts import Intervals
from rollforge.evaluation.table import marks_table
from rollforge.metrics.interval import Interval


def markdown(comparison: Comparison, against: Sequence[str] = ()) -> str:
    """All tables, for ``table.md``; with the differences from the points named in ``against``."""
    protocol = Protocol(comparison, against)
    tables = [protocol.markdown(), *_marks(comparison), *(_ranked(each) for each in rankings(comparison))]
    tables += paired.markdown(paired.paired(comparison, against), against) if against else ()
    return "\n\n".join([*tables, activity.markdown(comparison)]).strip() + "\n"


def summary(comparison: Comparison, against: Sequence[str] = ()) -> str:
    """What fits a terminal: figures at each mark, runs and diagnostics, and measures whose good direction is clear."""
    runs = Protocol(comparison, against).summary()
    return "\n\n".join([*_marks(comparison), runs, *(_ranked(each) for each in rankings(comparison) if each.direction)])


def cell(figure: Interval) -> str:
    """``0.812 (0.79 to 0.83)``; a dash for no number."""
    if math.isnan(figure.mean):
        return "-"
    bounds = f" ({figure.low:.3g} to {figure.high:.3g})" if figure.values > 1 else ""
    return f"{figure.mean:.3g}{bounds}"


def ranking_title(ranking: Ranking) -> str:
    """What a table of ranks goes by."""
    return f"{ranking.curve} ({ranking.direction or 'no level is better than another, so levels are not ranked'})"


def _marks(comparison: Comparison) -> Iterable[str]:
    videos = {point.label: list(point.videos.values()) for point in comparison.measured}
    truth = next((point.metrics["truth"] for point in comparison.measured if point.metrics.get("truth")), None)
    if table := marks_table(videos, truth and _intervals(truth), "point"):
        yield f"Means over windows one trained horizon long, by where they end, over prompts:\n\n{table}"


def _intervals(truth: Mapping[str, Any]) -> Intervals:
    """The truth as ``metrics.json`` keeps it."""
    return {
        curve: {
            name: Interval(number(entry["mean"]), number(entry["low"]), number(entry["high"]), int(entry["values"]))
            for name, entry in figures.items()
        }
        for curve, figures in truth.items()
    }


def _ranked(ranking: Ranking) -> str:
    head = ["rank", "point", "level", "rank by drift", "drift, |last - first 15 %|"]
    rows = [
        [rank(row.level), row.label, cell(row.level.figure), rank(row.drift), cell(row.drift.figure)]
        for row in ranking.rows
    ]
    return f"{ranking_title(ranking)}; drift: {STEADIER}; ~ not told apart from the first:\n\n{_table(head, rows)}"


def rank(place: Place) -> str:
    """A rank, with ~ where the point cannot be told apart from the first; a dash for none."""
    if place.rank is None:
        return "-"
    return f"{place.rank}{'' if place.rank == 1 or place.apart else ' ~'}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines)


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
