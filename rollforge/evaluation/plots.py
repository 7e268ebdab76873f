"""Curves over the time of the video, as a picture: small multiples, one panel for each curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rollforge.evaluation.prompts import band
from rollforge.evaluation.video_result import DownsampledCurve, VideoResult
from rollforge.files.writing import replacing
from rollforge.metrics.summary import Curve, mean
from rollforge.report.figure_text import legend, literal
from rollforge.video.sheet import COMPRESSION

COLUMNS, PANEL = 3, (4.2, 2.2)  # inches
POINTS = 300
HORIZON = "#d64541"


def grid(videos: Sequence[VideoResult], curve: str, points: int = POINTS) -> tuple[Curve, Curve]:
    """A curve of many videos at the same times: seconds ``[points]`` and values ``[prompts, points]``.

    Each point is the mean over an equal stretch of time; NaN where a video has ended.
    """
    known = [(video.prompt, video.thin[curve]) for video in videos if curve in video.thin]
    spacing = max(_spacing(thin) for _, thin in known)
    width = max(spacing, max(thin.seconds[-1] + _spacing(thin) for _, thin in known) / points)
    count = max(_places(thin, width)[-1] for _, thin in known) + 1
    rows: dict[str, list[Curve]] = {}
    for prompt, thin in known:
        rows.setdefault(prompt, []).append(_resampled(thin, width, count))
    together = [own[0] if len(own) == 1 else np.array([mean(at) for at in np.stack(own).T]) for own in rows.values()]
    return np.arange(count) * width, np.stack(together)


def draw(groups: Mapping[str, Sequence[VideoResult]], horizon_seconds: float) -> Figure | None:
    """Mean over prompts of every curve with its 95 % interval, one line for each group; None where there is nothing."""
    names = list(dict.fromkeys(name for videos in groups.values() for video in videos for name in video.thin))
    if not names:
        return None
    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(COLUMNS * PANEL[0], rows * PANEL[1] + 0.5))
    FigureCanvasAgg(figure)
    panels: list[Any] = [figure.add_subplot(rows, COLUMNS, n + 1) for n in range(len(names))]
    for axes, name in zip(panels, names, strict=True):
        for label, videos in groups.items():
            if any(name in video.thin for video in videos):
                seconds, values = grid(videos, name)
                middle, low, high = band(values)
                known = ~np.isnan(middle)  # a curve that is defined once a block is still a line
                (line,) = axes.plot(seconds[known], middle[known], linewidth=1, label=literal(label))
                axes.fill_between(
                    seconds[known], low[known], high[known], color=line.get_color(), alpha=0.25, linewidth=0
                )
        if axes.get_xlim()[1] > horizon_seconds:
            axes.axvline(horizon_seconds, color=HORIZON, linewidth=0.8, linestyle="--")
        axes.set_title(literal(name), fontsize=9, parse_math=False, y=1)  # fixed, as below: to seek places takes long
        axes.tick_params(labelsize=7)
        axes.grid(visible=True, alpha=0.3)
        axes.margins(x=0)
        axes.yaxis.set_label_coords(0, 0.5)
    for axes in panels[:-COLUMNS]:
        axes.xaxis.set_label_coords(0.5, 0)
    for axes in panels[-COLUMNS:]:
        axes.set_xlabel("seconds", fontsize=8)
    prompts = max(len({video.prompt for video in videos}) for videos in groups.values())
    summary = f"mean over {prompts} prompts and its 95 % interval" if prompts > 1 else "one prompt, so no interval"
    height, title = figure.get_figheight(), ", ".join(label for label in groups if label)
    heading = literal(f"{title}: {summary}; dashed: the horizon ends".removeprefix(": "))
    figure.suptitle(heading, y=1 - 0.1 / height, fontsize=9, parse_math=False)
    if len(groups) > 1:
        legend(panels[0], fontsize=7)
    figure.subplots_adjust(0.06, 0.45 / height, 0.98, 1 - 0.6 / height, hspace=0.4)  # a tight layout takes seconds
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG, whole or not at all; raises ``UserError`` where it cannot."""
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110, pil_kwargs={"compress_level": COMPRESSION})


def _spacing(thin: DownsampledCurve) -> float:
    return float(thin.seconds[1] - thin.seconds[0]) if len(thin.seconds) > 1 else 0.1


def _places(thin: DownsampledCurve, width: float) -> Any:
    return np.floor(thin.seconds / width + 1e-6).astype(int)


def _resampled(thin: DownsampledCurve, width: float, count: int) -> Curve:
    places, known = _places(thin, width), ~np.isnan(thin.values)
    sums = np.bincount(places[known], thin.values[known], count)
    numbers = np.bincount(places[known], minlength=count)
    return np.where(numbers > 0, sums / np.maximum(numbers, 1), np.nan)
