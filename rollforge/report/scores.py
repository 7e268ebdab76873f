"""Measures rollouts at multiples of the trained horizon, and lays the figures out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from rollforge.data.requests import Request
from rollforge.errors import UserError
from rollforge.report.progress import progress
from rollforge.video.sheet import ContactSheet

if TYPE_CHECKING:
    from rollforge.module import RolloutModule

MARKS = (1, 5, 20, 60)
TRUE_WORLD = "(true world)"  # stands in the column of policies beside the figures of true videos
Row = dict[str, Any]  # policy, prompt, x (multiple of the horizon), and the metrics' means over that window


@dataclass
class Scores:
    """Figures of many videos. At each mark, a window as long as the trained horizon and ending there is measured.

    Args:
        marks: multiples of the horizon; those that a video does not reach are left out.
        rank: of this process; rank 0 shows how far it is.
    """

    marks: Sequence[int] = MARKS
    rank: int = 0
    measured: dict[int, tuple[list[Row], ContactSheet]] = field(default_factory=dict, init=False)  # by sample

    @property
    def rows(self) -> list[Row]:
        """The figures of all videos."""
        return [row for _, (rows, _) in sorted(self.measured.items()) for row in rows]

    @property
    def sheets(self) -> list[ContactSheet]:
        """A contact sheet for each video."""
        return [sheet for _, (_, sheet) in sorted(self.measured.items())]

    def merge(self, others: Iterable[Scores]) -> None:
        """Takes up what other processes have measured."""
        for other in others:
            self.measured |= other.measured

    def measure(self, module: RolloutModule, requests: Sequence[Request]) -> None:
        """Rolls the requests together and measures each."""
        if not module.metrics:
            raise UserError("test needs model.metrics, what to measure, and the config names none.")
        horizon, total = module.backbone.spec.horizon, requests[0].frames
        windows = {x: _window(module, x) for x in self.marks if x * horizon <= total}
        if not windows:
            raise UserError(
                f"data.seconds gives {total} latent frames, less than one trained horizon ({horizon}); ask for longer "
                "videos."
            )
        metrics = [[deepcopy(metric) for metric in module.metrics] for _ in requests]
        sheets = [ContactSheet(r.prompt, module.codec.pixel_frames(total), module.fps) for r in requests]
        for request, own in zip(requests, metrics, strict=True):
            for metric in own:
                metric.start(request.prompt, module.fps)
        sums: list[dict[int, dict[str, list[float]]]] = [{x: {} for x in windows} for _ in requests]
        at, policy = 0, type(module.policy).__name__
        for block in progress(module.roll(requests), module.codec.pixel_frames(total), module.fps, policy, self.rank):
            for n, video in enumerate(block):
                sheets[n].add(video.numpy())
                for x, window in windows.items():
                    low, high = max(window.start, at), min(window.stop, at + len(video))
                    if low < high:
                        for metric in metrics[n]:
                            for name, curve in metric.update(video[low - at : high - at], low).items():
                                sums[n][x].setdefault(name, []).extend(curve.tolist())
            at += block.shape[1]
        for request, marks, sheet in zip(requests, sums, sheets, strict=True):
            named = {"policy": policy, "prompt": request.prompt}
            self.measured[request.sample] = [named | {"x": x} | _means(c) for x, c in marks.items()], sheet


def truth(module: RolloutModule, requests: Iterable[Request]) -> list[Row]:
    """What the metrics say of true videos, where a metric knows the truth."""
    frames = module.codec.pixel_frames(module.backbone.spec.horizon)
    rows = []
    for request in requests:
        measured: dict[str, list[float]] = {}
        for metric in module.metrics:
            video = metric.truth(request.prompt, request.seed + request.sample, 2 * frames)
            if video is not None:
                metric.start(request.prompt, module.fps)
                metric.update(video[:frames], 0)
                measured |= {name: curve.tolist() for name, curve in metric.update(video[frames:], frames).items()}
        if measured:
            rows.append({"policy": TRUE_WORLD, "prompt": request.prompt, "x": 1, **_means(measured)})
    return rows


def table(rows: Sequence[Row], heading: str = "policy") -> str:
    """Means over prompts with the standard error of each, as a Markdown table; ``heading`` names its first column."""
    names = [name for name in rows[0] if name not in ("policy", "prompt", "x")]
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["policy"], row["x"]), []).append(row)
    lines = [f"| {heading} | horizon | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for (policy, x), members in groups.items():
        cells = []
        for name in names:
            values = torch.tensor([row[name] for row in members])
            error = values.std().item() / len(values) ** 0.5 if len(values) > 1 else float("nan")
            cells.append(f"{values.mean().item():.3f} ± {error:.3f}")
        lines.append(f"| {policy} | {x}x | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _window(module: RolloutModule, x: int) -> range:
    """Pixel frames of the window that ends at ``x`` times the horizon."""
    horizon, count = module.backbone.spec.horizon, module.codec.pixel_frames
    return range(count((x - 1) * horizon) if x > 1 else 0, count(x * horizon))


def _means(curves: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(sum(values) / len(values), 5) for name, values in curves.items()}
