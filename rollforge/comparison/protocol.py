"""The protocol in which long rollouts are compared: which tables there are, and what is in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from rollforge.comparison import likeness
from rollforge.comparison.paired import DRAWS, Values, markdown_table
from rollforge.comparison.point_thumbnails import PointThumbnails, base_of
from rollforge.comparison.quantities import Group, Quantity
from rollforge.comparison.run_result import Comparison, RunResult, number
from rollforge.evaluation.run_identity import RunIdentity
from rollforge.metrics.summary import mean

DIMENSION = {
    "level": "level",
    "in-clip": "in_clip",
    "clip-to-clip": "clip_to_clip",
    "first 5 s": "first_5s",
    "last 5 s": "last_5s",
    "worst segment": "worst_clip",
}
MOTION = ("motion", "flow_top")
WHOLE_DRAWS = 10_000
FALLS = 0.85
"""A video's motion has fallen where its last 15 % move less than so much of its first 15 %."""
HOW = (
    "Every dimension: mean over prompts, several videos of a prompt counting once, and its 95 % bootstrap interval "
    "(4,000 resamples of the prompts, one fixed stream; 10,000 for figures of the whole video). * where the interval "
    "of a difference excludes 0. In-clip and clip-to-clip are changes: 0 stands still."
)


class Protocol:
    """The tables of a comparison.

    Args:
        comparison: finished runs.
        against: labels of the points from which differences are taken.
    """

    def __init__(self, comparison: Comparison, against: Sequence[str] = ()) -> None:
        self.comparison, self.against = comparison, against
        self.points = {point.label: point for point in comparison.measured}

    @cached_property
    def identities(self) -> dict[str, RunIdentity]:
        """Of each point's videos."""
        return {label: RunIdentity.of([*point.videos.values()]) for label, point in self.points.items()}

    @cached_property
    def thumbnails(self) -> dict[str, PointThumbnails]:
        """The thumbnails of each point."""
        return {label: PointThumbnails(point) for label, point in self.points.items()}

    @property
    def runs(self) -> dict[str, str]:
        """The short identity of each point."""
        return {label: identity.short for label, identity in self.identities.items()}

    @property
    def suites(self) -> list[str]:
        """What prompts were used, as the runs state it; more than one where they differ."""
        return list(dict.fromkeys(point.suite for point in self.points.values() if point.suite))

    def runs_table(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows: what the figures of each point were taken of."""
        head = ["point", "run", "policy", "MD5 of the frames", "noise", "commit", "blocks that read otherwise"]
        rows = [
            [label, one.short, one.policy, one.frames, one.noise, one.commit[:12], one.activity]
            for label, one in self.identities.items()
        ]
        return head, rows

    @cached_property
    def diagnostics(self) -> list[Group]:
        """Motion, identity, convergence and twins, as far as there is something to tell."""
        found = self._motion(), self._identity(), self._convergence(), self._twins()
        return [group for group in found if group]

    @cached_property
    def dimensions(self) -> list[Group]:
        """A group for each curve, and one of the figures of whole videos."""
        groups = [
            Group(curve, [self._statistic(name, curve, key) for name, key in DIMENSION.items()])
            for curve in self.comparison.curves
        ]
        names = dict.fromkeys(name for point in self.points.values() for name in point.figure_names)
        whole = [self._quantity(name, partial(RunResult.figures, name=name), WHOLE_DRAWS) for name in names]
        return [*groups, *([Group("Whole video", whole)] if whole else [])]

    def summary(self) -> str:
        """For a terminal: prompts, runs, and the diagnostics."""
        parts = [*(f"Prompts: {suite}." for suite in self.suites), markdown_table(*self.runs_table())]
        return "\n\n".join([*parts, *self._tables(self.diagnostics)])

    def markdown(self) -> str:
        """All of it."""
        return "\n\n".join([self.summary(), HOW, *self._tables(self.dimensions)])

    def _tables(self, groups: Sequence[Group]) -> Iterator[str]:
        return (table for group in groups if (table := group.markdown(self.runs, self.against)))

    def _quantity(self, name: str, values: Callable[[RunResult], Values], draws: int = DRAWS) -> Quantity:
        return Quantity(name, {label: values(point) for label, point in self.points.items()}, draws)

    def _statistic(self, name: str, curve: str, key: str) -> Quantity:
        return self._quantity(name, partial(RunResult.values, curve=curve, statistic=key))

    def _motion(self) -> Group | None:
        curve = next((name for name in MOTION if name in self.comparison.curves), None)
        if curve is None:
            return None
        early = self._statistic("first 15 %", curve, "first_15")
        late = self._statistic("last 15 %", curve, "last_15")
        share = self._quantity(f"share below {FALLS} of its start", partial(fallen, curve=curve))
        return Group(f"Motion ({curve})", [early, late, share])

    def _identity(self) -> Group | None:
        name = "likeness to the own opening minus that to other seeds', last 5 s"
        found = Quantity(name, {label: seen.identity() for label, seen in self.thumbnails.items()})
        known = any(not np.isnan(value) for values in found.values.values() for value in values.values())
        return Group("Identity (thumbnails)", [found]) if known else None

    def _convergence(self) -> Group | None:
        apart = {label: seen.across(likeness.apart) for label, seen in self.thumbnails.items()}
        own = {label: seen.across(likeness.retrieved) for label, seen in self.thumbnails.items()}
        quantities = [
            Quantity(f"{name}, {where} 5 s", {label: _end(curves, n) for label, curves in found.items()})
            for name, found in (("distance", apart), ("prompt retrieved", own))
            for n, where in enumerate(("first", "last"))
        ]
        halves = "; ".join(f"{label} {_half(curves)}" for label, curves in own.items() if curves)
        note = f"seconds until half of the prompts are retrieved no more: {halves}"
        return Group("Different prompts (thumbnails)", quantities, note) if halves else None

    def _twins(self) -> Group | None:
        seconds: dict[str, Values] = {}
        shares: dict[str, Values] = {}
        for label, point in self.points.items():
            if base := base_of(point, self.comparison.measured):
                found = self.thumbnails[base.label].parted(self.thumbnails[label])
                seconds[label] = {prompt: mean(np.array(values)) for prompt, values in found.items()}
                shares[label] = {prompt: float(np.mean(~np.isnan(values))) for prompt, values in found.items()}
        quantities = [Quantity("share that parts", shares), Quantity("second at which those part", seconds)]
        return Group("Twin runs (thumbnails)", quantities, "one noise block is perturbed") if seconds else None


def fallen(point: RunResult, curve: str) -> Values:
    """Whether a video's motion falls below ``FALLS`` of its start, 1 or 0; of several videos of a prompt the mean."""

    def below(video: Mapping[str, Any]) -> float:
        ratio = number(((video.get("summary") or {}).get(curve) or {}).get("ratio_15"))
        return ratio if np.isnan(ratio) else float(ratio < FALLS)

    return point.over_videos(below)


def _end(curves: dict[str, likeness.Curve], n: int) -> Values:
    return {prompt: likeness.at_ends(curve)[n] for prompt, curve in curves.items()}


def _half(curves: dict[str, likeness.Curve]) -> str:
    shortest = min(map(len, curves.values()))
    found = likeness.half_life(np.mean([curve[:shortest] for curve in curves.values()], axis=0))
    return f"more than {shortest - 1}" if np.isnan(found) else f"{found:g}"
