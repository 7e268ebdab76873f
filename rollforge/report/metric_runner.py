"""Metrics of a rollout in progress. One that raises is disabled; the rollout continues."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from rollforge.borders import WrongAnswer, check_curves, check_values
from rollforge.errors import UserError, ran_out
from rollforge.metrics.base import Blocks, Metric, directions
from rollforge.metrics.curves import CurveFile
from rollforge.pipeline import Pipeline
from rollforge.state import State

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class Curves:
    """The curves of a video, of its pixel frames and of its latents, as CSV files next to it.

    Args:
        file: the video.
        fps: pixel frames per second.
        latent_fps: latent frames per second.
        state: continue from there: what ``state_dict`` returned.
    """

    def __init__(self, file: Path, fps: float, latent_fps: float, state: State | None = None) -> None:
        self.files = file.with_suffix(".curves.csv"), file.with_suffix(".latent_metrics.csv")
        self.partial = [each.with_suffix(".partial.csv") for each in self.files]
        self._rename_old(file)
        state = state or {"frames": 0, "latents": 0, "rows": [0, 0]}
        self.frames, self.latents = state["frames"], state["latents"]
        if state["rows"] != [0, 0]:
            self._reopen()
        self.pictures = CurveFile(self.partial[0], fps, state["rows"][0])
        self.numbers = CurveFile(self.partial[1], latent_fps, state["rows"][1])

    def add(self, measures: MetricRunner, video: Tensor, latents: Tensor) -> None:
        """Measures a block: pixel frames uint8 ``[T, H, W, 3]`` and latents ``[F, C, h, w]``."""
        self.pictures.add(measures.update(video, self.frames), self.frames)
        self.numbers.add(measures.update_latents(latents, self.latents), self.latents)
        self.frames, self.latents = self.frames + len(video), self.latents + len(latents)

    def state_dict(self) -> State:
        """How much is measured, and how many lines each file has: none, where no metric has a curve of its kind."""
        rows = [self.pictures.frames, self.numbers.frames]
        return {"frames": self.frames, "latents": self.latents, "rows": rows}

    def _rename_old(self, file: Path) -> None:
        """Gives files that rollforge 0.1 left, under the name ``.latents``, their names of today."""
        for suffix, new in ((".latents.csv", self.files[1]), (".latents.partial.csv", self.partial[1])):
            old = file.with_suffix(suffix)
            if old.exists() and not new.exists():
                old.replace(new)

    def _reopen(self) -> None:
        """Restores partial names: final ones exist if a run was killed just before its end."""
        for partial, file in zip(self.partial, self.files, strict=True):
            if file.exists() and not partial.exists():
                file.replace(partial)

    def finish(self) -> None:
        """Gives the files their final names, and removes empty ones."""
        for partial, file in zip(self.partial, self.files, strict=True):
            if partial.stat().st_size:
                partial.replace(file)
            else:
                partial.unlink()


class MetricRunner:
    """Copies of metrics, for one video.

    Args:
        metrics: what to measure.
    """

    def __init__(self, metrics: Sequence[Metric]) -> None:
        directions(metrics)  # raises for one that states another than it may
        self.working = {name: deepcopy(metric) for name, metric in _named(metrics)}
        self.out: dict[str, str] = {}  # metrics that raised, and what

    def start(self, prompt: str, fps: float, blocks: Blocks | None = None) -> None:
        """Starts a new video. Raises the ``UserError`` of a metric that cannot measure it at all."""
        self._merged(lambda metric: metric.start(prompt, fps, blocks) or {}, "at the start")

    def update(self, frames: Tensor, start: int) -> dict[str, Tensor]:
        """Curves of pixel frames ``start, start + 1, ...``, uint8 ``[T, H, W, 3]``."""
        when = f"at frame {start}"
        return self._merged(lambda metric: check_curves(metric, metric.update(frames, start), when, len(frames)), when)

    def update_latents(self, latents: Tensor, start: int) -> dict[str, Tensor]:
        """Curves of latent frames ``start, start + 1, ...``, ``[F, C, H, W]``."""
        when, count = f"at latent frame {start}", len(latents)
        return self._merged(lambda one: check_curves(one, one.update_latents(latents, start), when, count), when)

    def finish(self) -> dict[str, float]:
        """Values of the complete video."""
        when = "at the end"
        return self._merged(lambda metric: check_values(metric, metric.finish(), when), when)

    def state_dict(self) -> State:
        """The state of the metrics, and which are disabled."""
        return {"out": dict(self.out), "metrics": {name: metric.state_dict() for name, metric in self.working.items()}}

    def load_state_dict(self, state: State) -> None:
        """Restores what ``state_dict`` returned, after ``start``."""
        if {*state["out"], *state["metrics"]} != {*self.out, *self.working}:
            raise UserError(
                f"The snapshot holds what {', '.join(state['metrics']) or 'no metric'} has gathered, and there is "
                f"{', '.join(self.working) or 'none'} now; continue with the metrics that it was started with."
            )
        self.out = dict(state["out"])
        self.working = {name: metric for name, metric in self.working.items() if name not in self.out}
        for name, metric in self.working.items():
            metric.load_state_dict(state["metrics"][name])

    def _merged(self, call: Callable[[Metric], Mapping[str, Answer]], when: str) -> dict[str, Answer]:
        merged: dict[str, Answer] = {}
        for name, metric in list(self.working.items()):
            try:
                merged |= call(metric)
            except Exception as error:
                wrong = isinstance(error, WrongAnswer)
                if (isinstance(error, UserError) and not wrong) or ran_out(error):
                    raise
                message = f"{type(error).__name__} {when} ({error})"
                self.out[name] = message
                del self.working[name]
                log.warning("The metric %s raised %s; it is disabled, and the rollout continues.", name, message)
        return merged


def runner_for(pipeline: Pipeline, metrics: Sequence[Metric], prompt: str) -> MetricRunner:
    """A runner, started for a video of a pipeline."""
    runner, spec = MetricRunner(metrics), pipeline.backbone.spec
    runner.start(prompt, pipeline.fps, Blocks.of(pipeline.codec.pixel_frames, spec.block, spec.first_block))
    return runner


def _named(metrics: Sequence[Metric]) -> Iterator[tuple[str, Metric]]:
    """Metrics by their class, counted where there are several of one."""
    seen: Counter[str] = Counter()
    for metric in metrics:
        name = type(metric).__name__
        seen[name] += 1
        yield (f"{name} {seen[name]}" if seen[name] > 1 else name), metric
