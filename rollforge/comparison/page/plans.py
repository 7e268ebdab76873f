"""The plans of cache policies as pictures: which content each block reads, and at which time index."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from html import escape
from itertools import groupby

from rollforge.comparison.run_result import RunResult
from rollforge.doctor.parts import build
from rollforge.policies.base import CachePolicy
from rollforge.spec import Phase, ReadPlan, Step

STEPS, CELL = 30, 10
COLOURS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""From the opening to the latest block: viridis, which also greys in order."""


@dataclass(frozen=True)
class Plan:
    """The policy of one or more points, and its picture."""

    labels: Sequence[str]
    name: str
    description: str
    picture: str


def plans(measured: Sequence[RunResult]) -> list[Plan]:
    """One for each policy that differs from the others."""
    groups: dict[str, list[RunResult]] = {}
    for point in measured:
        key = json.dumps([point.config["model"].get("policy"), point.block], sort_keys=True, default=str)
        groups.setdefault(key, []).append(point)
    return [_plan(points) for points in groups.values()]


def _plan(points: Sequence[RunResult]) -> Plan:
    config = points[0].config
    policy: CachePolicy = build("policy", config["model"]["policy"])
    block = points[0].block
    given = ", ".join(f"{key}={value}" for key, value in (config["model"]["policy"].get("init_args") or {}).items())
    name = f"{type(policy).__name__}({given})"
    return Plan([point.label for point in points], name, _description(policy, block), draw(policy, block, name))


def draw(policy: CachePolicy, block: int, name: str, steps: int = STEPS) -> str:
    """A row for each step, downwards; across it the time index; the colour is the content that is read there."""
    walked = [*_walk(policy, block, steps)]
    first = min((time for _, plan in walked for _, time in plan.entries()), default=0)
    left, across = min(0, first // block), steps
    width = (across - left) * CELL
    cells = "".join(_row(step, plan, left, steps) for step, plan in walked)
    ticks = "".join(
        f'<text x="{(n - left + 0.5) * CELL:g}" y="-3" text-anchor="middle">{n}</text>'
        f'<text x="-4" y="{(n + 0.8) * CELL:g}" text-anchor="end">{n}</text>'
        for n in range(0, steps, 5)
    )
    title = f"Plan of {name}: for each block made, top to bottom, the blocks read, by time index from left to right"
    return (
        f'<svg class="plan" viewBox="-26 -24 {width + 30} {steps * CELL + 28}" role="img" aria-label="{escape(title)}">'
        f'<text x="0" y="-14">time index, in blocks</text>{ticks}{cells}</svg>'
    )


def _walk(policy: CachePolicy, block: int, steps: int) -> Iterator[tuple[Step, ReadPlan]]:
    """The plans of the first denoising passes, in order, each block committed before the next."""
    policy = deepcopy(policy)
    for index in range(steps):
        yield (step := Step.of(index, block)), policy.plan(step)
        policy.on_commit(Step.of(index, block, Phase.COMMIT))


def _row(step: Step, plan: ReadPlan, left: int, steps: int) -> str:
    """What one block reads, and the block itself."""
    block = step.block
    y = step.index * CELL
    cells = []
    for content, run in _runs(plan.entries(), block):
        times = [time for _, time in run]
        frames = [frame for frame, _ in run]
        text = f"block {step.index} reads {_span(frames, 'frame')} at {_span(times, 'time')}"
        x, wide = (min(times) / block - left) * CELL, len(run) / block * CELL
        cells.append(
            f'<rect x="{x:g}" y="{y}" width="{wide:g}" height="{CELL}" fill="{_colour(content / max(1, steps - 1))}">'
            f"<title>{text}</title></rect>"
        )
    x = (plan.query / block - left) * CELL
    cells.append(
        f'<rect class="own" x="{x + 1:g}" y="{y + 1}" width="{CELL - 2}" height="{CELL - 2}">'
        f"<title>block {step.index} itself, from time {plan.query}</title></rect>"
    )
    return "".join(cells)


def _runs(entries: Sequence[tuple[int, int]], block: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Entries next to each other in time that belong to one block of content, and which block."""
    ordered = sorted(entries, key=lambda entry: entry[1])
    placed = enumerate(ordered)
    for (content, _), run in groupby(placed, key=lambda each: (each[1][0] // block, each[1][1] - each[0])):
        yield content, [entry for _, entry in run]


def _description(policy: CachePolicy, block: int) -> str:
    """What it costs."""
    start = STEPS * block
    *_, (_, plan) = _walk(policy, block, STEPS + 1)
    kept, again = len(policy.live(start, block)), len(policy.moves(start, block))
    seen = len(plan.entries())
    return f"A block reads {seen} latent frames; {kept} are kept, {again} of them as raw keys too."


def _colour(share: float) -> str:
    at = min(max(share, 0.0), 1.0) * (len(COLOURS) - 1)
    low = min(int(at), len(COLOURS) - 2)
    mixed = (round(one + (other - one) * (at - low)) for one, other in zip(COLOURS[low], COLOURS[low + 1], strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def _span(numbers: Sequence[int], what: str) -> str:
    first, last = numbers[0], numbers[-1]
    return f"{what} {first}" if first == last else f"{what}s {first} to {last}"
