"""Every pass of a rollout against a simulation of the released program's rules, in plain integers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from rollforge_rolling_forcing import JointFewStep, RollingForcing
from torch import Tensor

from rollforge.samplers import Finished, Job, Pass
from rollforge.spec import Phase, Step

LEVELS = 5
Row = tuple[str, int, int, list[int], list[tuple[int, int]]]
"""Phase, first frame, frames, the level of each block, what is read at which time."""


def expected(blocks: int, size: int) -> Iterator[Row]:
    """The passes of ``blocks`` blocks, from the rules of the released program: window 7 blocks, sink 1."""
    for w in range(blocks + LEVELS - 1):
        a, b = max(0, w - LEVELS + 1), min(blocks - 1, w)
        together = range(a, b + 1)
        room = 7 - len(together) - 1
        working = range(max(1, a - room), a)
        first = working.start if len(working) else a
        read = [(0, first - 1)] if a else []  # blocks at the places of blocks
        read += [(block, block) for block in working]
        yield "denoise", a, len(together), [w - k for k in together], frames_of(read, size)
        committed = [(block, block) for block in range(max(0, a - 6), a)]
        final = w - a == LEVELS - 1
        yield "commit" if final else "estimate", a, 1, [], frames_of(committed, size)


def frames_of(pairs: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    return [(size * content + n, size * time + n) for content, time in pairs for n in range(size)]


def asked(blocks: int, size: int) -> Iterator[Row]:
    """The passes that the sampler requests, and what the policy lets each of them read."""
    sampler, policy, level = JointFewStep(shift=1.0), RollingForcing(), (1000.0, 800.0, 600.0, 400.0, 200.0)
    steps = [Step.of(index, size) for index in range(blocks)]
    kept: frozenset[int] = frozenset()  # as a memory would
    passes, reply = sampler.run(Job(steps, lambda step, level: torch.zeros(1, size, 1, 1, 1))), None
    while True:
        try:
            request: Any = passes.send(reply)
        except StopIteration:
            return
        if isinstance(request, Finished):
            reply = True
            continue
        assert isinstance(request, Pass)
        step, plan = request.step, policy.plan(request.step)
        assert plan.query == step.start
        assert {content for content, _ in plan.entries()} <= kept
        assert len(plan.entries()) + len(step.frames) <= 7 * size
        times = request.timestep
        levels = [level.index(t) for t in times[0, ::size].tolist()] if isinstance(times, Tensor) else []
        yield step.phase.value, step.start // size, len(step.frames) // size, levels, list(plan.entries())
        if step.phase is Phase.COMMIT:
            kept = (kept | {*step.frames}) & policy.live(step.frames.stop, size)
            assert policy.moves(step.frames.stop, size) <= kept
            assert len(kept) <= 7 * size
        reply = torch.zeros_like(request.latents)


@pytest.mark.parametrize(("blocks", "size"), [(1000, 3), (1000, 1), (1, 3), (3, 3), (5, 3), (8, 3)])
def test_every_pass_reads_what_the_released_program_reads(blocks: int, size: int) -> None:
    assert list(asked(blocks, size)) == list(expected(blocks, size))
