"""End-point error where the truth is known, of things and of the ground."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rollforge.data.world import all_scenes, held_out
from rollforge.metrics.flow import DIS, Flow
from rollforge.metrics.interval import Interval, interval
from rollforge_motion.shift import Domain, clip

FURTHEST = 8
DRAWS = 4000
"""Resamples of the pairs, for intervals."""
PARTS = "things", "ground"
Errors = dict[str, list[float]]
"""Mean end-point error of each pair, in pixels, of each of ``PARTS``."""


class Pair(NamedTuple):
    """Two frames uint8 ``[H, W, 3]``, the true flow between them ``[H, W, 2]``, and which pixels are things."""

    before: Tensor
    after: Tensor
    flow: Tensor
    thing: Tensor


def pairs(domain: Domain, count: int, seed: int = 100) -> list[Pair]:
    """Pairs of frames of scenes that no training sees, 1 to 8 frames apart in turn."""
    scenes = [scene for scene in all_scenes() if held_out(scene)]
    found = []
    for n in range(count):
        drawn = np.random.default_rng((seed, n))
        apart = 1 + n % FURTHEST
        video, motion = clip(domain, scenes[drawn.integers(len(scenes))], int(drawn.integers(2**31)), apart + 1)
        pair = torch.from_numpy(video[0]), torch.from_numpy(video[apart])
        found.append(Pair(*pair, torch.from_numpy(motion.flow(0, apart)), torch.from_numpy(motion.owner[0] >= 0)))
    return found


def errors(flow: Callable[[Tensor, Tensor], Tensor], tested: Sequence[Pair]) -> Errors:
    """End-point errors of a flow, from pictures uint8 ``[H, W, 3]`` to ``[H, W, 2]``."""
    found: Errors = {part: [] for part in PARTS}
    for pair in tested:
        error = (flow(pair.before, pair.after) - pair.flow).norm(dim=2)
        for part, where in zip(PARTS, (pair.thing, ~pair.thing), strict=True):
            found[part].append(float(error[where].mean()))
    return found


def baselines() -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """No motion at all, and DIS."""
    return {"zero": lambda before, after: torch.zeros(*before.shape[:2], 2), "DIS": reading(DIS())}


def reading(flow: Flow) -> Callable[[Tensor, Tensor], Tensor]:
    """A flow as ``Motion`` calls it, of luma where it reads that."""
    from rollforge.metrics.frames import Frame

    def between(before: Tensor, after: Tensor) -> Tensor:
        shown = [flow.picture(Frame(each.numpy(), n)) for n, each in enumerate((before, after))]
        return flow.between(*shown)

    return between


def table(found: Mapping[str, Errors], first: str) -> str:
    """A Markdown table of mean errors with 95 % intervals over pairs, and of the paired differences from ``first``.

    A star marks a difference whose interval excludes 0.
    """
    lines = [
        "| flow | things (px) | ground (px) | things, difference | ground, difference |",
        "|---|---|---|---|---|",
    ]
    for name, own in found.items():
        means = [_shown(interval(own[part], draws=DRAWS)) for part in PARTS]
        changes = ["", ""] if name == first else [_starred(difference(own, found[first], part)) for part in PARTS]
        lines.append(f"| {name} | {' | '.join([*means, *changes])} |")
    return "\n".join(lines) + "\n"


def difference(own: Errors, other: Errors, part: str) -> Interval:
    """The mean difference of two flows over the same pairs, with its interval."""
    return interval(np.subtract(own[part], other[part]).tolist(), draws=DRAWS)


def _shown(found: Interval) -> str:
    return f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})"


def _starred(found: Interval) -> str:
    star = "*" if found.low > 0 or found.high < 0 else ""
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f}){star}"
