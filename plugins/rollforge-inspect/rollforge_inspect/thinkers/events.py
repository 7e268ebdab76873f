"""Change points of the curves of a video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from rollforge_inspect.thinkers.features import Features, Numbers

Kind = Literal["cut", "object", "drift"]

FEWEST = 6
"""Samples of a scene that a change can be told from."""
SPAN = 4
"""Samples on each side that a change must last for."""
CUT = 8.0
"""Mean distance in LAB over the picture that makes a cut."""
STEP = 0.01
"""Share of the picture that an object covers at least."""
DRIFT = 4.0
"""Distance in LAB that makes a drift."""
LARGEST = 0.4
"""Share of a drift that a single step may have."""
ABOVE = 5.0
"""How many times as large as usual a change must be."""


@dataclass(frozen=True)
class Event:
    """Something that happens between ``start`` and ``end``, in seconds.

    Args:
        kind: what.
        start: of it, or the last sample before it.
        end: of it, or the first sample after it.
        thought: how it was found.
        strength: how many times as large it is as the least that counts.
        before: the picture, or the curve, on the one side.
        after: the same on the other side.
        background: the picture that ``share`` is counted against.
    """

    kind: Kind
    start: float
    end: float
    thought: str
    strength: float
    before: Numbers
    after: Numbers
    background: Numbers

    def narrowed(self, seen: Features) -> Event:
        """The same, between the last sample that is like before and the first that is like after."""
        start, end = self.start, self.end
        for time, late in zip(seen.times.tolist(), self._late(seen), strict=True):
            if start < time < end:
                start, end = (start, time) if late else (time, end)
        return replace(self, start=start, end=end)

    def _late(self, seen: Features) -> list[bool]:
        """Whether each sample is more like after than like before."""
        if self.kind == "cut":
            one, other = (np.linalg.norm(seen.cells - side, axis=2).mean(axis=1) for side in (self.before, self.after))
        else:
            share = seen.share(self.background)
            one, other = abs(share - self.before), abs(share - self.after)
        return list((other < one).tolist())


def events(skimmed: Features) -> list[Event]:
    """All that happens, the clearest first."""
    background = np.median(skimmed.cells, axis=0)
    cuts = list(_cuts(skimmed, background))
    taken = [skimmed.times.tolist().index(event.end) for event in cuts]
    found = [*cuts, *_objects(skimmed, taken), *_drifts(skimmed, background, taken)]
    return sorted(found, key=lambda event: -event.strength)


def _cuts(skimmed: Features, background: Numbers) -> Iterator[Event]:
    """Steps of the complete picture."""
    jumps = np.linalg.norm(np.diff(skimmed.cells, axis=0), axis=2).mean(axis=1)
    for at in _peaks(jumps, CUT):
        before, after = _side(skimmed.cells, at, -1), _side(skimmed.cells, at, 1)
        jump = float(jumps[at - 1])
        if np.linalg.norm(before - after, axis=1).mean() > jump / 2:
            thought = f"The picture changes by {jump:.0f} in LAB at once, and stays so."
            yield Event("cut", *_times(skimmed, at), thought, jump / CUT, before, after, background)


def _objects(skimmed: Features, cuts: list[int]) -> Iterator[Event]:
    """Steps in the share of the picture that differs from its median over time, in each scene by itself."""
    edges = [0, *sorted(cuts), len(skimmed.times)]
    for first, last in pairwise(edges):
        if last - first >= FEWEST:
            yield from _in_scene(Features(skimmed.times[first:last], skimmed.cells[first:last]))


def _in_scene(scene: Features) -> Iterator[Event]:
    background = np.median(scene.cells, axis=0)
    share = scene.share(background)
    least = max(STEP, ABOVE * float(np.quantile(abs(share - _smooth(share, 2 * SPAN + 1)), 0.9)))
    for at in _peaks(abs(np.diff(share)), STEP):
        before, after = _side(share, at, -1), _side(share, at, 1)
        step = float(abs(after - before))
        if step > max(least, abs(share[at] - share[at - 1]) / 2):
            thought = f"The share of the picture that is not its background goes from {before:.3f} to {after:.3f}."
            yield Event("object", *_times(scene, at), thought, step / least, before, after, background)


def _drifts(skimmed: Features, background: Numbers, cuts: list[int]) -> Iterator[Event]:
    """A way of the mean colour from one value to another in many small steps."""
    steps = np.diff(skimmed.means, axis=0)
    for at in cuts:
        steps[at - 1] = 0
    path = np.concatenate([np.zeros((1, 3), np.float32), steps.cumsum(axis=0)])
    edge = max(1, len(path) // 10)
    first, last = (np.median(part, axis=0) for part in (path[:edge], path[-edge:]))
    total = float(np.linalg.norm(last - first))
    largest = float(np.linalg.norm(steps, axis=1).max())
    if total < DRIFT or largest > LARGEST * total:
        return
    along = _smooth((path - first) @ (last - first) / total**2)
    onset, end = _crossing(skimmed.times, along, 0.1), _crossing(skimmed.times, along, 0.9)
    more = (end - onset) / 8  # from a tenth to nine tenths of the way is eight tenths of a steady one
    start, stop = max(0.0, onset - more), min(float(skimmed.times[-1]), end + more)
    if stop > start:
        thought = f"The mean colour moves by {total:.1f} in LAB."
        yield Event("drift", start, stop, thought, total / DRIFT, first, last, background)


def _peaks(curve: Numbers, least: float) -> list[int]:
    """Samples ``n`` at which ``curve[n - 1]``, the change from the sample before, stands out; the largest first."""
    usual = float(np.median(curve))
    found = [n + 1 for n in np.argsort(-curve, kind="stable").tolist() if curve[n] > max(least, ABOVE * usual)]
    return [at for at in found if 1 < at < len(curve)]  # at least two samples on each side


def _side(curve: Numbers, at: int, way: int) -> Numbers:
    """The median of the samples before or after a change."""
    part = curve[max(0, at - SPAN) : at] if way < 0 else curve[at : at + SPAN]
    return np.asarray(np.median(part, axis=0))


def _times(skimmed: Features, at: int) -> tuple[float, float]:
    return float(skimmed.times[at - 1]), float(skimmed.times[at])


def _smooth(curve: Numbers, width: int = 5) -> Numbers:
    """The median of ``width`` neighbours, an odd number."""
    padded = np.pad(curve, width // 2, mode="edge")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1))


def _crossing(times: Numbers, along: Numbers, level: float) -> float:
    """When a curve from 0 to 1 has left ``level`` behind for good."""
    below = np.flatnonzero(along < level)
    at = int(below[-1]) if len(below) else 0
    if at + 1 >= len(along):
        return float(times[-1])
    step = float(along[at + 1] - along[at])
    part = (level - float(along[at])) / step if step > 0 else 0.0
    return float(times[at] + min(1.0, max(0.0, part)) * (times[at + 1] - times[at]))
