"""Drift of the videos that training reports generate, from fixed seeds: what it was at each report."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from rollforge.report.figure_text import literal

DRAWN = ("saturation", "detail", "histogram_distance", "flow_median")
"""Curves that are drawn, where the metrics have them; others are in the table."""
POINTS = 200
"""Values of a curve that are kept."""


class Validation:
    """Curves of the videos of each report, the mean over its videos."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.curves: list[dict[str, NDArray[np.float64]]] = []
        self.seconds = 0.0  # of the longest video
        self.horizon = 0.0  # seconds

    def add(self, step: int, videos: Sequence[Mapping[str, Tensor]], fps: float, horizon: float) -> dict[str, float]:
        """Adds the curves of the videos of a report, by name, one value for each pixel frame.

        Returns the mean of each within the horizon and, where there is something, past it.
        """
        frames = max(len(curve) for video in videos for curve in video.values())
        self.seconds, self.horizon = frames / fps, horizon
        means = {name: _mean([video[name] for video in videos if name in video], frames) for name in videos[0]}
        if self.steps and self.steps[-1] == step:
            del self.steps[-1], self.curves[-1]
        self.steps.append(step)
        self.curves.append({name: curve[:: -(-frames // POINTS)] for name, curve in means.items()})
        border = round(horizon * fps)
        parts = {"within": slice(border), **({"past": slice(border, None)} if frames > border else {})}
        found = {
            f"{name}/{part}_horizon": curve[where][np.isfinite(curve[where])].mean()
            for name, curve in means.items() for part, where in parts.items() if np.isfinite(curve[where]).any()
        }  # fmt: skip
        return {name: float(value) for name, value in found.items()}

    def csv(self) -> str:
        """A row for each report, curve and point of time that is kept."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["step", "curve", "seconds", "value"])
        for step, curves in zip(self.steps, self.curves, strict=True):
            for name, curve in curves.items():
                writer.writerows(
                    [step, name, f"{second:.3f}", f"{value:.6g}"]
                    for second, value in zip(self._times(curve), curve, strict=True)
                    if np.isfinite(value)
                )
        return text.getvalue()

    def figure(self) -> Figure:
        """Curves over the seconds of the videos, a line for each report, later ones darker; the horizon is dotted."""
        known = self.curves[-1]
        names = [name for name in DRAWN if name in known] or [*known][: len(DRAWN)]
        figure = Figure(figsize=(3.2 * len(names), 2.8))
        colours = colormaps["viridis_r"](np.linspace(0.1, 1, len(self.steps)))
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            for step, curves, colour in zip(self.steps, self.curves, colours, strict=True):
                if name in curves:
                    label = f"step {step}" if step in (self.steps[0], self.steps[-1]) else None
                    axes.plot(self._times(curves[name]), curves[name], color=colour, label=label, linewidth=1)
            if self.horizon < self.seconds:
                axes.axvline(self.horizon, color="0.5", linestyle=":")
            axes.set_title(literal(name), fontsize=9, y=1)  # fixed, as below: to seek places takes long
            axes.set_xlabel("seconds")
        figure.axes[0].legend(fontsize=7)
        figure.subplots_adjust(0.2 / len(names), 0.2, 1 - 0.03 / len(names), 0.88, wspace=0.35)
        return figure

    def state_dict(self) -> dict[str, Any]:
        """Steps and curves, as plain data and tensors."""
        curves = [{name: torch.from_numpy(curve.copy()) for name, curve in each.items()} for each in self.curves]
        return {"steps": list(self.steps), "curves": curves, "seconds": self.seconds, "horizon": self.horizon}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self.steps, self.seconds, self.horizon = list(state["steps"]), state["seconds"], state["horizon"]
        self.curves = [{name: curve.numpy() for name, curve in each.items()} for each in state["curves"]]

    def _times(self, curve: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.linspace(0, self.seconds, len(curve), endpoint=False, dtype=np.float64)


def _mean(curves: Sequence[Tensor], frames: int) -> NDArray[np.float64]:
    """The mean of curves that may end early or have no value somewhere, ``[frames]``."""
    rows = np.full((len(curves), frames), np.nan)
    for row, curve in zip(rows, curves, strict=True):
        row[: len(curve)] = curve.double().numpy()
    counts = np.isfinite(rows).sum(0)
    return np.where(counts > 0, np.nansum(rows, 0) / np.maximum(counts, 1), np.nan)
