"""Checks plans by frame numbers: a policy is followed for a thousand blocks without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace

from rollforge.policies.base import CachePolicy
from rollforge.spec import Event, Phase, ReadPlan, Reencode, Start, Step
from rollforge.testing.rules import expect, fail

DEPTH = 30
"""Layers of a network whose plans name shares of its depth."""
Entry = tuple[int, int]
Expected = Callable[[Step], tuple[Iterable[Entry], int]]
"""From a step to the ``(content frame, time index)`` pairs that its block reads, and the time of its first frame."""


def check_plans(
    policy: CachePolicy,
    expected: Expected,
    *,
    block: int = 3,
    blocks: int = 1000,
    events: Mapping[int, Sequence[type[Event]]] | None = None,
) -> None:
    """Checks what every block reads against an independent function, and that a memory would still hold it.

    The passes of each block are followed: DENOISE, at as many levels as the policy needs, and COMMIT. What the memory
    of a rollout evicts is not available here either: frames that are not live, and the raw keys of frames that are not
    in ``moves``, which can then only be read at the time index of the last plan. Virtual frames are made of what is
    held raw. The order of entries does not matter.

    Args:
        policy: as a config would build it. It is copied, not changed.
        expected: what a block reads, computed in another way than the policy does. It is called in order, so that it
            may keep a state of its own.
        block: frames of a block.
        blocks: how many are followed.
        events: what happens before a block, by its number, such as ``{5: [PromptSwitch]}``.

    Raises:
        CheckFailed: with the rule, the block and the frames.
    """
    policy = deepcopy(policy)
    frames = FrameNumbers(policy, block)
    visible = policy.visible(block)
    coming = dict(events or {})
    for index in range(blocks):
        step = Step.of(index, block)
        happening: list[type[Event]] = [] if index else [Start]
        later = tuple(number * block for number in coming if number > index)
        again = [policy.on_event(event(step, later)) for event in [*happening, *coming.get(index, ())]]
        frames.make(step)
        for each in again:
            frames.reread(step, each)
        passes = [replace(step, level=level) for level in range(policy.denoising_steps)]
        for now in (*passes, replace(step, phase=Phase.COMMIT, level=policy.denoising_steps)):
            plan = policy.plan(now)
            _compare(policy, now, plan, expected(now))
            most = max(_read(plan), default=0)
            expect(
                most <= visible, "policy-bound", policy, f"Block {index} reads {most} frames; visible says {visible}."
            )
            frames.read(now, plan, step.start)
        frames.reread(Step.of(index + 1, block), policy.on_commit(now) or ())
        frames.keep(now)


class FrameNumbers:
    """What a rollout's memory holds, by number: frames that are held raw, and time indices of those that are not."""

    def __init__(self, policy: CachePolicy, block: int) -> None:
        self.policy, self.block = policy, block
        self.raw: set[int] = set()
        self.turned: dict[int, set[int]] = {}

    def make(self, step: Step) -> None:
        """The virtual frames of a block."""
        virtual = list(self.policy.virtual(step))
        for each in virtual:
            if missing := {*each.of} - self.raw:
                problem = f"Frame {each.frame} of block {step.index} is made of frame {min(missing)}, which is not raw."
                fail("policy-moves", self.policy, problem)
        self._write([frame for each in virtual for frame in each.frames])

    def read(self, step: Step, plan: ReadPlan, start: int) -> None:
        """A pass, while the block that begins at ``start`` is not committed."""
        at = f"Block {step.index} ({step.phase.value})"
        for frame, time in plan.entries():
            if frame not in self.raw and frame not in self.turned:
                fail("policy-live", self.policy, f"{at} reads frame {frame}, which is forgotten or was never there.")
            if frame not in self.raw and time not in self.turned[frame]:
                problem = f"{at} reads frame {frame} at time {time}, and only {sorted(self.turned[frame])} is kept."
                fail("policy-moves", self.policy, problem)
        self.turned = {frame: times for frame, times in self.turned.items() if frame not in self.raw}
        for frame, time in plan.entries():
            self.turned.setdefault(frame, set()).add(time)
        written = step.frames if step.writes else ()
        self._write(written)
        if step.phase is not Phase.COMMIT:
            self._forget(start, written)

    def keep(self, step: Step) -> None:
        """A block is committed."""
        self._forget(step.frames.stop, step.frames)

    def reread(self, step: Step, wishes: Sequence[range | Reencode]) -> None:
        """Frames are read again before the block at ``step``."""
        for wish in wishes:
            frames = range(wish.frame, wish.frame + 1) if isinstance(wish, Reencode) else wish
            if missing := {*frames} - self.raw - self.turned.keys():
                problem = f"Before block {step.index} frame {min(missing)} is read again, which is forgotten."
                fail("policy-live", self.policy, problem)
            if not isinstance(wish, Reencode):
                again = Step(step.index, wish.start, step.block, Phase.RECACHE, count=len(wish))
                self.read(again, self.policy.plan(again), step.start)

    def _write(self, frames: Iterable[int]) -> None:
        fresh = {*frames}
        self.raw |= fresh
        self.turned = {frame: times for frame, times in self.turned.items() if frame not in fresh}

    def _forget(self, start: int, written: Iterable[int] = ()) -> None:
        live, moves = self.policy.live(start, self.block), self.policy.moves(start, self.block)
        kept = live & (moves | {*written})
        self.raw = {frame for frame in self.raw & live if frame in kept or frame not in self.turned}
        self.turned = {frame: times for frame, times in self.turned.items() if frame in live}


def _read(plan: ReadPlan) -> list[int]:
    """How many frames are read, for each layer that a segment sets apart, or by all."""
    every = sum(run.length for run in plan.segments if run.layers is None)
    some = [(run.layers, run.length) for run in plan.of_depth(DEPTH).segments if isinstance(run.layers, range)]
    layers = {layer for which, _ in some for layer in which}
    return [every, *(every + sum(length for which, length in some if layer in which) for layer in layers)]


def _compare(policy: CachePolicy, step: Step, plan: ReadPlan, wanted: tuple[Iterable[Entry], int]) -> None:
    entries, query = wanted
    ours, theirs = sorted(plan.entries()), sorted(entries)
    at = f"Block {step.index} ({step.phase.value})"
    expect(ours == theirs, "policy-plan", policy, f"{at} reads {ours}, expected {theirs}.")
    expect(plan.query == query, "policy-plan", policy, f"{at} begins at time {plan.query}, expected {query}.")
