"""The parts of the page that say what was measured: ranks, figures, speed and memory."""

from __future__ import annotations

from html import escape
from math import isnan

from rollforge.comparison.page.html import figure, folded, named, note, table
from rollforge.comparison.ranking import STEADIER, Place, Ranking, rankings
from rollforge.comparison.run_result import Comparison, number
from rollforge.comparison.tables import rank
from rollforge.metrics.interval import NAN, Interval, interval

NOTHING = Interval(NAN, NAN, NAN, 0)
STATISTICS = {
    "level": "level",
    "first_15": "first 15 %",
    "last_15": "last 15 %",
    "drift_15": "drift, 15 %",
    "ratio_15": "last / first",
    "first_5s": "first 5 s",
    "last_5s": "last 5 s",
    "drift_5s": "drift, 5 s",
    "in_clip": "change in clips",
    "clip_to_clip": "clip to clip",
    "vde": "VDE",
    "slope_per_minute": "slope per minute",
    "largest_deviation": "largest deviation",
    "worst_clip": "worst clip",
    "worst_clip_at": "worst clip at, s",
}
SPEED = {"wall_seconds": "seconds for a video", "first_block_seconds": "first block, s", "steady_fps": "FPS after it"}
HOW = (
    f"There is no overall score. Drift is |last 15 % &minus; first 15 %|: {STEADIER}, which a frozen or blurred video "
    "is too, so read it next to the level. Intervals are 95 % bootstrap intervals of the mean over prompts. "
    "~ cannot be told apart from the first, prompt by prompt."
)
COSTS = (
    "Means over videos with 95 % intervals. The whole run starts Python, loads the weights and measures. Memory is "
    "that of the process, a GPU's not included, as the system counts it. Videos rolled together share their time."
)


def ranked(comparison: Comparison) -> str:
    """A table for each curve."""
    order = {point.label: n for n, point in enumerate(comparison.measured)}
    cards = "".join(_card(each, order) for each in rankings(comparison))
    return f'{note(HOW)}<div class="cards ranks">{cards}</div>'


def _card(ranking: Ranking, order: dict[str, int]) -> str:
    clear = bool(ranking.direction)
    rows = [[named(order[row.label], row.label), *_place(row.level, clear), *_place(row.drift)] for row in ranking.rows]
    text = f"Level: {ranking.direction}." if clear else "No level is better than another: not ranked."
    content = f"<h3>{escape(ranking.curve)}</h3><p>{text}</p>{table(['point', '#', 'level', '#', 'drift'], rows)}"
    return f'<article class="card">{content}</article>'


def _place(place: Place, ranks: bool = True) -> list[str]:
    return [rank(place).replace(" ", "&nbsp;") if ranks else "", figure(place.figure)]


def marks(comparison: Comparison) -> str:
    """The means at each multiple of the horizon."""
    found = []
    labels = [escape(point.label) for point in comparison.measured]
    for times in comparison.marks:
        truth = comparison.truth if times == comparison.marks[0] else {}
        rows = []
        for curve in comparison.curves:
            cells = [figure(point.marks.get(times, {}).get(curve, NOTHING)) for point in comparison.measured]
            known = [f"{truth[curve]:.3g}" if curve in truth else "-"] if truth else []
            rows.append([escape(curve), *cells, *known])
        head = ["curve", *labels, *(["true videos"] if truth else [])]
        found.append(f"<h3>At {times}&times; the trained horizon</h3>{table(head, rows)}")
    return "".join(found) or "<p>No video is as long as one trained horizon.</p>"


def figures(comparison: Comparison) -> str:
    """Every statistic of every curve."""
    found = []
    for curve in comparison.curves:
        rows = []
        for n, point in enumerate(comparison.measured):
            cells = (figure(interval(point.values(curve, name).values())) for name in STATISTICS)
            rows.append([named(n, point.label), *cells])
        found.append(folded(escape(curve), table(["point", *STATISTICS.values()], rows)))
    return "".join(found)


def costs(comparison: Comparison) -> str:
    """Speed and memory."""
    rows = []
    for n, point in enumerate(comparison.measured):
        measured = [(video.get("speed") or {}) for video in point.videos.values()]
        speeds = [figure(interval(number(each.get(name)) for each in measured)) for name in SPEED]
        kept = [number(point.record.get(name)) for name in ("wall_seconds", "peak_memory_mib")]
        rows.append([named(n, point.label), *speeds, *("-" if isnan(each) else f"{each:.0f}" for each in kept)])
    return table(["point", *SPEED.values(), "whole run, s", "peak memory, MiB"], rows) + note(COSTS)
