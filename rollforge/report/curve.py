"""The losses of a training, one row for each optimizer step."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rollforge.report.figure_text import legend, literal


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
        self.steps.append(step)
        self.values.append(row)
        self.pending = []
        return row

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

    def figure(self) -> Figure:
        """Every loss over the steps, smoothed over a fiftieth of the run."""
        figure = Figure(figsize=(8, 4.5))
        axes = figure.subplots()
        width = max(1, len(self.steps) // 50)
        for name, values in zip(self.names, self._table().T, strict=True):
            if name.startswith("loss"):
                smooth = np.convolve(values, np.ones(width) / width, mode="valid")
                axes.plot(self.steps[width - 1 :], smooth, label=literal(name))
        axes.set_xlabel("step")
        axes.set_yscale("log")
        axes.grid(visible=True, alpha=0.3)
        legend(axes)
        figure.subplots_adjust(0.1, 0.11, 0.98, 0.97)
        return figure

    def _table(self) -> NDArray[np.float64]:
        rows = [[row.get(name, math.nan) for name in self.names] for row in self.values]
        return np.array(rows, np.float64).reshape(len(rows), len(self.names))
