"""The thumbnails of a point's videos, by prompt and seed, and what the protocol reads off them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rollforge.comparison import likeness
from rollforge.comparison.run_result import Key, RunResult
from rollforge.files.reading import bare_name
from rollforge.metrics.summary import mean
from rollforge.metrics.thumbnails import SUFFIX, Pictures, read

PERTURBED, PLAIN = "PerturbedNoise", "IndependentNoise"
Values = dict[str, float]


class PointThumbnails:
    """Videos of a point that have thumbnails; of one prompt there may be several, as of two seeds.

    Args:
        point: a finished run.
    """

    def __init__(self, point: RunResult) -> None:
        self.point = point

    @cached_property
    def videos(self) -> dict[Key, Pictures]:
        """Thumbnails ``[T, 16, 16, 3]`` by sample and prompt, in the order of the samples."""
        found = {key: self._file(video) for key, video in sorted(self.point.videos.items())}
        return {key: pictures for key, path in found.items() if path and len(pictures := read(path))}

    @cached_property
    def by_prompt(self) -> dict[str, dict[Key, Pictures]]:
        """The videos of each prompt, by sample."""
        found: dict[str, dict[Key, Pictures]] = {}
        for key, pictures in self.videos.items():
            found.setdefault(key[1], {})[key] = pictures
        return found

    def identity(self) -> Values:
        """Likeness to the own opening minus that to other seeds', over the last five seconds, by prompt."""
        return {
            prompt: mean(np.array([likeness.at_ends(curve)[1] for curve in likeness.identity([*videos.values()])]))
            for prompt, videos in self.by_prompt.items()
        }

    def across(self, measure: Callable[[Pictures], likeness.Curve]) -> dict[str, likeness.Curve]:
        """A measure of videos of different prompts ``[N, T, ...]``, by prompt: the mean over its videos, ``[T]``."""
        found: dict[str, list[likeness.Curve]] = {}
        for prompts, stacked in self._sets():
            for prompt, curve in zip(prompts, measure(stacked), strict=True):
                found.setdefault(prompt, []).append(curve)
        return {prompt: np.mean(_cut(curves), axis=0) for prompt, curves in found.items()}

    def parted(self, twin: PointThumbnails) -> dict[str, list[float]]:
        """The seconds at which the videos of a twin part from these, NaN where they never do, by prompt."""
        found: dict[str, list[float]] = {}
        for prompt, videos in self.by_prompt.items():
            for key, own in videos.items():
                others = [other for place, other in videos.items() if place != key]
                if key in twin.videos and others:
                    found.setdefault(prompt, []).append(likeness.parted(own, twin.videos[key], others))
        return found

    def _sets(self) -> Iterator[tuple[list[str], Pictures]]:
        """The first video of every prompt, the second of each, and so on: more than one video, of one length."""
        for n in range(max(map(len, self.by_prompt.values()), default=0)):
            nth = {prompt: [*videos.values()][n] for prompt, videos in self.by_prompt.items() if n < len(videos)}
            if len(nth) > 1:
                yield [*nth], np.stack(_cut(nth.values()))

    def _file(self, video: Mapping[str, Any]) -> Path | None:
        name = str(video.get("file") or "")
        path = (self.point.folder / bare_name(name, self.point.folder)).with_suffix(SUFFIX) if name else None
        return path if path and path.is_file() else None


def base_of(twin: RunResult, points: Sequence[RunResult]) -> RunResult | None:
    """The point that differs from a twin in nothing but its perturbed noise."""
    noise = _noise(twin)
    if _class(noise) != PERTURBED:
        return None
    base = _class((noise.get("init_args") or {}).get("base"))
    alike = (point for point in points if _class(_noise(point)) == base and _rest(point) == _rest(twin))
    return next(alike, None)


def _noise(point: RunResult) -> Mapping[str, Any]:
    return (point.config.get("model") or {}).get("noise") or {}


def _class(noise: Mapping[str, Any] | None) -> str:
    return str((noise or {}).get("class_path") or PLAIN).rpartition(".")[2]


def _rest(point: RunResult) -> tuple[Any, Any]:
    """All that videos depend on but the noise."""
    model = {key: value for key, value in (point.config.get("model") or {}).items() if key != "noise"}
    return model, point.config.get("data")


def _cut(arrays: Iterable[Any]) -> list[Any]:
    """Arrays of the length of the shortest."""
    known = [*arrays]
    shortest = min(map(len, known))
    return [each[:shortest] for each in known]
