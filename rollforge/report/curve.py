"""The losses of a training, one row for each optimizer step."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from numpy.typing import NDArray

from rollforge.errors import UserError
from rollforge.files.reading import read_text
from rollforge.report.figure_text import legend, literal

LARGEST = 100_000_000  # bytes of a reference curve
RATIO = "critic_to_student"
"""The loss of a critic over that of the network that it is trained in turns with."""


def read_curve(path: str) -> LossCurve:
    """A curve from a ``losses.csv``. Raises ``UserError`` for a file that is not one."""
    curve = LossCurve()
    try:
        reader = csv.DictReader(io.StringIO(read_text(Path(path), LARGEST, "reference curve")))
        curve.names = [name for name in reader.fieldnames or () if name != "step"]
        for row in reader:
            curve.steps.append(int(row["step"]))
            curve.values.append({name: float(row[name]) for name in curve.names if row[name]})
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is not a curve of losses ({error}); give --reference a losses.csv of fit.") from error
    if not curve.steps:
        raise UserError(f"{path} holds no losses; give --reference a losses.csv of fit.")
    return curve


class LossCurve:
    """Named losses of every optimizer step: the mean over the batches that the step accumulated."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.steps: list[int] = []
        self.values: list[dict[str, float]] = []
        self.pending: list[dict[str, float]] = []  # batches since the last step

    def add(self, losses: Mapping[str, float]) -> None:
        """Adds the losses of a batch."""
        self.names += [name for name in losses if name not in self.names]
        self.pending.append(dict(losses))

    def close(self, step: int) -> dict[str, float]:
        """Makes a row of the batches since the last step, and returns it."""
        row = {
            name: math.fsum(found) / len(found)
            for name in self.names
            if (found := [batch[name] for batch in self.pending if name in batch])
        }
        if {"loss_critic", "loss_student"} <= {*self.names} and RATIO not in self.names:
            self.names.append(RATIO)
        if RATIO in self.names:
            row |= self._ratio(row)
        self.steps.append(step)
        self.values.append(row)
        self.pending = []
        return row

    def _ratio(self, row: Mapping[str, float]) -> dict[str, float]:
        """The loss of the critic over that of the student, of this step or the last that trained it."""
        last = {}
        for name in ("loss_critic", "loss_student"):
            last[name] = next((each[name] for each in (row, *reversed(self.values)) if name in each), math.nan)
        return {RATIO: last["loss_critic"] / last["loss_student"]} if last["loss_student"] else {}

    def state_dict(self) -> dict[str, Any]:
        """The whole curve: its steps ``[steps]``, its values ``[steps, names]`` and plain data."""
        return {
            "names": list(self.names),
            "steps": torch.tensor(self.steps, dtype=torch.int64),
            "values": torch.from_numpy(self._table()),
            "pending": [dict(batch) for batch in self.pending],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state that ``state_dict`` returned."""
        self.names, self.steps = list(state["names"]), state["steps"].tolist()
        rows = state["values"].tolist()
        self.values = [
            {name: value for name, value in zip(self.names, row, strict=True) if not math.isnan(value)} for row in rows
        ]
        self.pending = [dict(batch) for batch in state["pending"]]

    def csv(self) -> str:
        """The rows as text, with a line of names."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, ["step", *self.names], restval="")
        writer.writeheader()
        writer.writerows({"step": step} | row for step, row in zip(self.steps, self.values, strict=True))
        return text.getvalue()

    def figure(self, reference: LossCurve | None = None) -> Figure:
        """Every loss over the steps, smoothed over a fiftieth of the run; of two networks also the ratio, below.

        Those of a reference are drawn under them, in grey.
        """
        both = {"loss_critic", "loss_student"} <= {*self.names}
        figure = Figure(figsize=(8, 6.5 if both else 4.5))
        axes = figure.subplots(2 if both else 1, sharex=True, squeeze=False, height_ratios=[2, 1] if both else None)
        upper = axes[0, 0]
        for name in self.names:
            if name.startswith("loss") and not (both and name == "loss"):
                upper.plot(*self._smoothed(name), label=literal(name))
        if both:
            axes[1, 0].plot(*self._smoothed(RATIO), label=literal(RATIO))
        if reference is not None:
            reference._draw_under(upper, [name for name in self.names if name.startswith("loss")])
            if both:
                reference._draw_under(axes[1, 0], [RATIO])
        for each in axes[:, 0]:
            if all((line.get_ydata() > 0).all() for line in each.lines):
                each.set_yscale("log")
            each.yaxis.set_major_formatter(_Plain())
            each.yaxis.set_minor_formatter(_Plain())
            each.grid(visible=True, alpha=0.3)
            legend(each)
        axes[-1, 0].set_xlabel("step")
        figure.subplots_adjust(left=0.1, right=0.98, top=0.97, bottom=0.1)  # a tight layout takes as long as drawing
        return figure

    def _draw_under(self, axes: Axes, names: Sequence[str]) -> None:
        known = [name for name in names if name in self.names and not (name == "loss" and "loss_critic" in self.names)]
        for name, style in zip(known, cycle(("-", "--", ":"))):
            steps, values = self._smoothed(name)
            axes.plot(steps, values, style, color="0.7", zorder=0, label=literal(f"{name} (reference)"))

    def _smoothed(self, name: str) -> tuple[list[int], NDArray[np.float64]]:
        """The steps that have a value of this name, and the values, averaged over a fiftieth of them."""
        found = [(step, row[name]) for step, row in zip(self.steps, self.values, strict=True) if name in row]
        width = max(1, len(found) // 50)
        values = np.array([value for _, value in found], np.float64)
        smooth = np.convolve(values, np.ones(width) / width, mode="valid") if found else values
        return [step for step, _ in found][width - 1 :], smooth

    def _table(self) -> NDArray[np.float64]:
        rows = [[row.get(name, math.nan) for name in self.names] for row in self.values]
        return np.array(rows, np.float64).reshape(len(rows), len(self.names))


class _Plain(LogFormatter):
    """Numbers as text: powers of ten are set as formulas, which takes longer than all else of the picture."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""
