"""What finished runs have measured, side by side: the same prompts in the same order for all points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rollforge.comparison.runs import Run
from rollforge.data.prompt_suite import PromptSuite
from rollforge.errors import UserError
from rollforge.evaluation.prompts import marks
from rollforge.files.reading import MANIFEST, bare_name, parse_json, read_text
from rollforge.metrics.interval import NAN, Interval
from rollforge.metrics.summary import mean, worst_of

BETTER = {"lowest": "higher is better", "highest": "lower is better"}
Key = tuple[int, str]
"""A video within a point: its sample and its prompt."""


@dataclass
class RunResult:
    """A finished run."""

    label: str
    folder: Path
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    record: Mapping[str, Any]
    videos: dict[Key, dict[str, Any]] = field(repr=False)
    losses: Path | None = None  # of its training, where it has one
    trained: str = ""  # the command that has trained it
    suite: str = ""  # what its prompts are known by

    @classmethod
    def of(cls, run: Run) -> RunResult:
        """Reads a run folder. Raises ``UserError`` where its files are not what ``test`` writes."""
        file = run.folder / "metrics.json"
        try:
            metrics = parse_json(read_text(file, MANIFEST, "file"))
            made = {bare_name(each["file"], run.folder): each for each in run.manifest["videos"]}
            videos = {
                (int(each["sample"]), str(each["prompt"])): {**made.get(each["file"], {}), **each}
                for each in metrics["videos"]
                if metrics.get("policy") in (None, each.get("policy"))  # a second one may stand next to it
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{file} cannot be read ({error!r}); remove the folder {run.folder}, and it is made again."
            ) from error
        made_first = run.training
        losses = made_first.losses if made_first and made_first.losses.is_file() else None
        trained = str(made_first.record.get("command", "")) if made_first else ""
        suite = _suite(run.manifest.get("prompts"))
        return cls(run.point.label, run.folder, run.config, metrics, run.record, videos, losses, trained, suite)

    @cached_property
    def curves(self) -> list[str]:
        """Names of the curves, in the order in which they were measured."""
        return list(dict.fromkeys(name for video in self.videos.values() for name in video.get("summary") or {}))

    @cached_property
    def better(self) -> dict[str, str]:
        """Whether higher or lower is better, of curves whose metric says so."""
        directions = self.metrics.get("better")
        return {str(curve): str(good) for curve, good in directions.items()} if isinstance(directions, dict) else {}

    @property
    def fps(self) -> float:
        """Frames per second."""
        return float(self.metrics.get("fps") or 0)

    @property
    def horizon(self) -> float:
        """The trained horizon in seconds."""
        return float(self.metrics.get("horizon_seconds") or 0)

    @property
    def block(self) -> int:
        """Latent frames of a block; of a run of rollforge 0.1, which does not state it, 3 as in Wan and Pocket."""
        return int(self.metrics.get("block") or 3)

    def values(self, curve: str, statistic: str) -> dict[str, float]:
        """A figure by prompt, NaN where there is none; of several videos of one prompt the mean."""
        return self.over_videos(lambda video: number(((video.get("summary") or {}).get(curve) or {}).get(statistic)))

    def figures(self, name: str) -> dict[str, float]:
        """The same of a figure of whole videos."""
        return self.over_videos(lambda video: number((video.get("figures") or {}).get(name)))

    @cached_property
    def figure_names(self) -> list[str]:
        """Names of the figures of whole videos."""
        return list(dict.fromkeys(str(name) for video in self.videos.values() for name in video.get("figures") or {}))

    def over_videos(self, measure: Callable[[Mapping[str, Any]], float]) -> dict[str, float]:
        """A measure of videos by prompt; of several videos of one prompt the mean of what is a number."""
        found: dict[str, list[float]] = {}
        for (_, prompt), video in self.videos.items():
            found.setdefault(prompt, []).append(measure(video))
        return {prompt: mean(np.array(values)) for prompt, values in found.items()}

    @cached_property
    def marks(self) -> dict[int, dict[str, Interval]]:
        """Means of each curve over windows that end at multiples of the horizon."""
        return marks(list(self.videos.values()))

    def path(self, video: Mapping[str, Any], what: str) -> Path | None:
        """A file of a video, where it has one that is there."""
        name = video.get(what)
        path = self.folder / bare_name(str(name), self.folder) if name else None
        return path if path and path.is_file() else None


@dataclass
class Comparison:
    """All points that could be measured.

    Args:
        measured: the points.
        failed: labels of those that could not, and why.
    """

    measured: Sequence[RunResult]
    failed: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def keys(self) -> list[Key]:
        """Every video that some point has."""
        return sorted({key for point in self.measured for key in point.videos})

    @cached_property
    def curves(self) -> list[str]:
        """Every curve that some point has."""
        return list(dict.fromkeys(name for point in self.measured for name in point.curves))

    def direction(self, curve: str) -> str:
        """Which levels of a curve are good, in words; empty where none are, or the points do not agree."""
        directions = {worst_of(point.better).get(curve, "") for point in self.measured if curve in point.curves}
        return BETTER.get(directions.pop(), "") if len(directions) == 1 else ""

    @cached_property
    def marks(self) -> list[int]:
        """Multiples of the horizon, rising."""
        return sorted({times for point in self.measured for times in point.marks})

    @cached_property
    def truth(self) -> dict[str, float]:
        """The level of each curve on true videos, where it is known."""
        known: dict[str, float] = {}
        for point in self.measured:
            for curve, value in (point.metrics.get("truth") or {}).items():
                level = value.get("level") if isinstance(value, dict) else value
                known.setdefault(curve, number(level.get("mean") if isinstance(level, dict) else level))
        return known


def gather(runs: Iterable[Run]) -> Comparison:
    """Reads all runs that are finished."""
    runs = list(runs)
    failed = {run.point.label: run.failure for run in runs if run.failure}
    return Comparison([RunResult.of(run) for run in runs if not run.failure], failed)


def _suite(known: Any) -> str:
    """The prompts as the manifest states them; empty where it does not."""
    try:
        return str(PromptSuite(**known)) if known else ""
    except TypeError:
        return ""


def number(value: Any) -> float:
    """NaN for what is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else NAN
