"""Tables for the terminal, as Markdown: one row for each curve, and no mean without its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan

from rollforge.evaluation.prompts import Intervals, Video, marks, over_prompts
from rollforge.metrics.interval import Interval

TRUE_WORLD = "(true world)"  # stands in the column of policies next to the figures of true videos
LEVELS = {"level": "level", "first 15 %": "first_15", "last 15 %": "last_15"}
DRIFT = {"drift (last - first)": "drift_15", "slope per minute": "slope_per_minute", "worst clip": "worst_clip"}
SMALL = 1e-2  # numbers below are written with an exponent
Cells = list[str]


def table(videos: Mapping[str, Sequence[Video]], truth: Intervals | None = None, heading: str = "policy") -> str:
    """All tables: curves at multiples of the horizon, their levels at both ends, and their drift.

    Args:
        videos: by policy (or by what ``heading`` names), as in ``metrics.json``.
        truth: of true videos, as in ``metrics.json``.
        heading: names the column next to the curves'; it is left out where there is but one policy and no truth.
    """
    summaries = {name: over_prompts(own) for name, own in videos.items()}
    tables = [marks_table(videos, truth, heading)]
    tables += [_summary_table(summaries, truth, heading, columns) for columns in (LEVELS, DRIFT)]
    return "\n\n".join(text for text in tables if text)


def marks_table(videos: Mapping[str, Sequence[Video]], truth: Intervals | None = None, heading: str = "policy") -> str:
    """Means over the windows that end at multiples of the horizon; empty where no video is as long as one."""
    measured = {name: marks(own) for name, own in videos.items()}
    reached = sorted({x for own in measured.values() for x in own})
    if not reached:
        return ""
    rows: list[Cells] = []
    for curve in dict.fromkeys(curve for own in measured.values() for at in own.values() for curve in at):
        if truth and curve in truth:
            rows.append([curve, TRUE_WORLD, shown(truth[curve]["level"]), *("" for _ in reached[1:])])
        for name, own in measured.items():
            rows.append([curve, name, *(shown(own[x][curve]) if curve in own.get(x, {}) else "" for x in reached)])
    return _markdown(["curve", heading, *(f"{x}x" for x in reached)], rows, len(videos) > 1 or bool(truth))


def shown(interval: Interval) -> str:
    """``mean [low, high]``; of one prompt, which has no interval, the mean and that it is one."""
    if isnan(interval.mean):
        return "-"
    if interval.values < 2:
        return f"{_short(interval.mean)} [n=1]"
    return f"{_short(interval.mean)} [{_short(interval.low)}, {_short(interval.high)}]"


def _short(value: float) -> str:
    """Three digits; two and an exponent for what is very small or large, so that columns stay narrow."""
    text = f"{value:.3g}"
    if value and ("e" in text or abs(value) < SMALL):
        digits, _, exponent = f"{value:.1e}".partition("e")
        return f"{digits}e{int(exponent)}"
    return text


def _summary_table(
    summaries: Mapping[str, Intervals], truth: Intervals | None, heading: str, columns: Mapping[str, str]
) -> str:
    rows = [
        [curve, name, *(shown(own[curve][figure]) for figure in columns.values())]
        for curve in dict.fromkeys(curve for own in summaries.values() for curve in own)
        for name, own in summaries.items()
        if curve in own
    ]
    return _markdown(["curve", heading, *columns], rows, len(summaries) > 1 or bool(truth)) if rows else ""


def _markdown(head: Cells, rows: list[Cells], named: bool) -> str:
    """A table whose columns line up; without its second column unless ``named``."""
    lines = [row if named else [row[0], *row[2:]] for row in (head, *rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines)
