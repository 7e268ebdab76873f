"""A rollout as frame numbers: the plans of many blocks, events included, without a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

from rollforge.policies import CachePolicy
from rollforge.spec import Event, Phase, ReadPlan, Step

Entries = list[tuple[int, int]]
"""Pairs of a content frame and its time index."""


@dataclass(frozen=True)
class Read:
    """One pass: the frames that it runs, what they read, and the time index of the first of them."""

    phase: Phase
    frames: range
    entries: Entries
    query: int


def passes(
    policy: CachePolicy, block: int, blocks: int, events: Mapping[int, Sequence[type[Event]]], opening: int = 0
) -> Iterator[Read]:
    """Every pass of a rollout: frames that are read again, one denoising pass and the commit of each block.

    Asserts that each pass reads only frames that were live ever since they were committed, and no more than
    ``visible`` says.

    Args:
        policy: it is copied.
        block: frames of a block.
        blocks: how many are made.
        events: those before each block, by its number.
        opening: frames that are given, as one pass.
    """
    policy, kept = deepcopy(policy), set[int]()
    index = 0

    def run(step: Step, reached: int) -> Read:
        plan: ReadPlan = policy.plan(step)
        entries = list(plan.entries())
        assert {frame for frame, _ in entries} <= kept, (step, entries, sorted(kept))
        assert len(entries) <= policy.visible(block)
        if step.phase.final:
            kept.update(step.frames)
            assert policy.on_commit(step) in ((), [], None)
        live = policy.live(reached, block)
        assert policy.moves(reached, block) <= live
        kept.intersection_update(live)
        return Read(step.phase, step.frames, entries, plan.query)

    if opening:
        yield run(Step(0, 0, block, Phase.PREFILL, count=opening), opening)
        index = 1
    for start in range(opening, opening + blocks * block, block):
        step = Step(index, start, block)
        for event in events.get(index, ()):
            for again in policy.on_event(event(step)):
                assert isinstance(again, range)
                assert {*again} <= kept
                yield run(replace(step, start=again.start, phase=Phase.RECACHE, count=len(again)), start)
        yield run(step, start)
        yield run(replace(step, phase=Phase.COMMIT), start + block)
        index += 1
