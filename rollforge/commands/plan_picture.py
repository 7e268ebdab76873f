"""The plan of a cache policy as a picture: content against time index, one panel for each block that is shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from rollforge.commands.plan_record import BlockRead, Recorded, entries
from rollforge.files.writing import replacing
from rollforge.report.figure_text import literal

OWN_TIME, OTHER_TIME, VIRTUAL, ITSELF, AGAIN = "#3b6ea8", "#d9822b", "#7b4fa3", "#c9ccd1", "#1d7a46"
CELL, MARGIN, HEAD, FOOT = 0.105, (0.5, 0.25, 0.5, 0.45), 0.5, 0.3
"""Inches: the edge of a frame, what is left free on the left, right, bottom and top of a panel, head and legend."""
DPI = 110
GAP = 2
"""Frames of room where numbers are left out."""


class Axis:
    """Whole numbers on an axis from which long gaps are left out."""

    def __init__(self, numbers: Iterable[int]) -> None:
        ordered = sorted(set(numbers))
        self.place: dict[int, int] = {}
        self.breaks: list[int] = []
        at = 0
        for before, number in zip([None, *ordered], ordered, strict=False):
            if before is not None:
                step = number - before
                if step > GAP + 1 or before < 0 <= number:
                    self.breaks.append(at + 1)
                    step = GAP + 1
                at += step
            self.place[number] = at
        self.length = at + 1

    def ticks(self) -> tuple[list[float], list[str]]:
        """A label where a run of numbers begins and ends."""
        numbers = list(self.place)
        ends = [n for n in numbers if not (self._close(n, -1) and self._close(n, 1))]
        kept: list[int] = []
        for n in ends:
            if not kept or self.place[n] - self.place[kept[-1]] >= 2:
                kept.append(n)
        return [self.place[n] + 0.5 for n in kept], [str(n) for n in kept]

    def _close(self, number: int, side: int) -> bool:
        return any(number + side * n in self.place for n in range(1, GAP + 2)) and (number < 0) == (number + side < 0)


def draw(recorded: Recorded, name: str) -> Figure:
    """All panels in one row, with a legend below."""
    axes = [_axes(read) for read in recorded.blocks]
    left, right, bottom, top = MARGIN
    widths = [max(x.length, 9) * CELL + left + right for x, _ in axes]
    wide = sum(widths)
    high = max(y.length for _, y in axes) * CELL + bottom + top + HEAD + FOOT
    figure = Figure(figsize=(wide, high), dpi=DPI)
    FigureCanvasAgg(figure)
    at = left
    for read, (x, y), width in zip(recorded.blocks, axes, widths, strict=True):
        panel = figure.add_axes(
            (at / wide, (FOOT + bottom) / high, (width - left - right) / wide, y.length * CELL / high)
        )
        _panel(panel, read, x, y)
        at += width
    figure.axes[0].set_ylabel("content frame", fontsize=7, labelpad=1)
    _text(figure, 0.1 / wide, 1 - 0.15 / high, name, fontsize=10, weight="bold", va="center")
    _text(figure, 0.1 / wide, 1 - 0.38 / high, describe(recorded), fontsize=8, va="center")
    patches = _legend(recorded.blocks)
    figure.legend(handles=patches, loc="lower left", bbox_to_anchor=(0, 0), ncols=6, fontsize=7, frameon=False)
    return figure


def save(figure: Figure, file: Path) -> None:
    """Writes the picture as PNG. Raises ``NotWritten``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        figure.savefig(partial, format="png", dpi=DPI)


def describe(recorded: Recorded) -> str:
    """What the policy costs, in one line."""
    text = f"The last block reads {recorded.reads} frames; {recorded.kept} are kept, {recorded.moves} of them raw."
    if recorded.still:
        text += f" {' and '.join(recorded.still).capitalize()} change{'s' if len(recorded.still) == 1 else ''} nothing."
    if any(read.differ for read in recorded.blocks):
        text += " Plans differ between denoising steps: the last step is shown."
    return text


def _axes(read: BlockRead) -> tuple[Axis, Axis]:
    seen, own = list(entries(read.plan)), read.step.frames
    times = [time for _, time, *_ in seen]
    contents = [content for content, *_ in seen]
    return Axis([*times, *range(read.plan.query, read.plan.query + len(own))]), Axis([*contents, *own])


def _panel(axes: Any, read: BlockRead, x: Axis, y: Axis) -> None:
    """The frames that one block reads, and the block itself."""
    commit = None if read.commit is None else set(read.commit.entries())
    for content, time, bias, limits in entries(read.plan):
        colour = VIRTUAL if content < 0 else OWN_TIME if content == time else OTHER_TIME
        at = x.place[time], y.place[content]
        edge = AGAIN if content in read.reread else "white"
        axes.add_patch(Rectangle(at, 1, 1, facecolor=colour, alpha=shade(bias), edgecolor="none"))
        axes.add_patch(
            Rectangle(
                at, 1, 1, fill=False, edgecolor=edge, linewidth=1.2 if edge == AGAIN else 0.5, hatch=_hatch(limits)
            )
        )
        if commit is not None and (content, time) in commit:
            axes.plot(at[0] + 0.5, at[1] + 0.5, "o", color="white", markersize=2.4)
    for n, frame in enumerate(read.step.frames):
        at = x.place[read.plan.query + n], y.place[frame]
        axes.add_patch(Rectangle(at, 1, 1, facecolor=ITSELF, edgecolor="black", linewidth=0.7))
    axes.set_xlim(-0.3, x.length + 0.3)
    axes.set_ylim(-0.3, y.length + 0.3)
    for axis, draw_break in ((x, axes.axvline), (y, axes.axhline)):
        for place in axis.breaks:
            draw_break(place + GAP / 2, color="#999999", linewidth=0.6, linestyle=(0, (2, 2)))
    axes.set_xticks(*x.ticks(), fontsize=6, rotation=90)
    axes.set_yticks(*y.ticks(), fontsize=6)
    axes.tick_params(length=2, pad=1.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("time index", fontsize=7, labelpad=1)
    title = f"block {read.step.start // read.step.block}" + (f"\n{read.event}" if read.event else "")
    axes.set_title(title, fontsize=8, loc="left")


def shade(bias: float) -> float:
    """How opaque a frame is drawn: 1 without a bias, and the weight of its keys where that is lower."""
    return max(0.15, math.exp(bias)) if bias < 0 else 1.0


def _hatch(limits: str) -> str | None:
    """How a frame that is not read everywhere is marked."""
    signs = {"layers": "////", "heads": "xxxx", "tokens": "....", "branch": "----"}
    return next((sign for word, sign in signs.items() if limits.startswith(word)), None)


def _legend(blocks: Sequence[BlockRead]) -> list[Patch]:
    """A legend of what the picture shows."""
    seen = [(read, *each) for read in blocks for each in entries(read.plan)]
    colours = {
        "at its own time": (OWN_TIME, any(0 <= content == time for _, content, time, *_ in seen)),
        "at another time": (OTHER_TIME, any(0 <= content != time for _, content, time, *_ in seen)),
        "virtual frame (below 0)": (VIRTUAL, any(content < 0 for _, content, *_ in seen)),
    }
    found = [Patch(color=colour, label=label) for label, (colour, there) in colours.items() if there]
    found.append(Patch(facecolor=ITSELF, edgecolor="black", linewidth=0.7, label="the block itself"))
    biases = sorted({round(bias, 3) for *_, bias, _ in seen if bias})
    if biases:
        span = f"{biases[0]:g}" if len(biases) == 1 else f"{biases[0]:g} to {biases[-1]:g}"
        found.append(Patch(facecolor=OWN_TIME, alpha=shade(biases[0]), label=f"paler: bias of {span}"))
    for limits in sorted({limits for *_, limits in seen if limits}):
        label = limits if limits.startswith("branch") else f"some {limits} only"
        found.append(Patch(facecolor="white", edgecolor="#555555", hatch=_hatch(limits), label=label))
    if any(read.reread for read in blocks):
        found.append(Patch(facecolor="white", edgecolor=AGAIN, linewidth=1.2, label="read again before the block"))
    if any(read.commit is not None for read in blocks):
        found.append(Patch(color="none", label="white dot: read by the commit pass too"))
    return found


def _text(figure: Figure, x: float, y: float, text: str, **options: Any) -> None:
    figure.text(x, y, literal(text), parse_math=False, **options)
