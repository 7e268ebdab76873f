"""What the blocks of a rollout read under a policy, taken down while a tiny network rolls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from rollforge.errors import UserError
from rollforge.memory import RolloutMemory
from rollforge.policies.base import CachePolicy
from rollforge.samplers.base import Sampler
from rollforge.spec import Cut, Event, Phase, ReadPlan, Step
from rollforge.testing.tiny import Rolls, condition

LATER = 8
"""Blocks of the video after those that are recorded, so that no sampler comes to its end meanwhile."""
BLOCKS, LAYERS = 24, (2, 30)
"""Blocks that are rolled; layers of the network: few, or those of Wan 1.3B, where a policy names its layers."""


@dataclass(frozen=True)
class BlockRead:
    """What one block reads.

    Args:
        step: the block.
        plan: of its last denoising pass.
        steps: how many denoising passes it has, and whether their plans differ.
        commit: of its commit pass, where it differs.
        reread: frames that are read again before it.
        event: what happens before it, if anything does.
    """

    step: Step
    plan: ReadPlan
    differ: bool = False
    commit: ReadPlan | None = None
    reread: frozenset[int] = frozenset()
    event: str = ""


@dataclass(frozen=True)
class Recorded:
    """The blocks to show, in order, and what the policy keeps.

    Args:
        blocks: those that show something new.
        kept: frames that are kept at the end, virtual ones included.
        moves: those of them that are held raw.
        still: events that change nothing.
    """

    blocks: tuple[BlockRead, ...]
    kept: int
    moves: int
    still: tuple[str, ...] = ()

    @property
    def reads(self) -> int:
        """Frames that the last block reads."""
        return len(self.blocks[-1].plan.entries())


def record(policy: CachePolicy, block: int = 3, sampler: Sampler | None = None, blocks: int = BLOCKS) -> Recorded:
    """Rolls a policy, and once more with another prompt and with a cut. Raises ``UserError`` as any rollout does."""
    try:
        return _recorded(policy, block, sampler, blocks, LAYERS[0])
    except UserError:
        return _recorded(policy, block, sampler, blocks, LAYERS[1])


def every_block(policy: CachePolicy, block: int = 3, sampler: Sampler | None = None) -> list[BlockRead]:
    """What each of the first ``BLOCKS`` blocks reads. Raises ``UserError`` as any rollout does."""
    try:
        return _rolled(policy, block, sampler, LAYERS[0], BLOCKS)[0]
    except UserError:
        return _rolled(policy, block, sampler, LAYERS[1], BLOCKS)[0]


def _recorded(policy: CachePolicy, block: int, sampler: Sampler | None, blocks: int, layers: int) -> Recorded:
    roll = partial(_rolled, policy, block, sampler, layers)
    plain, run = roll(blocks)
    full = next((n for n, read in enumerate(plain) if not _all_earlier(read)), blocks // 2)
    shown = sorted({n for n in (full - 1, full, full + 5, blocks - 1) if 0 < n < blocks})
    happens = min(full + 2, blocks - 1)
    seen, still = [plain[n] for n in shown], []
    for event, name in ((None, "a switch of prompt"), (Cut, "a cut")):
        changed, _ = roll(happens + 1, happens, event)
        after = changed[happens]
        if _same(after, plain[happens]):
            still.append(name)
        else:
            seen.append(BlockRead(after.step, after.plan, after.differ, after.commit, after.reread, f"after {name}"))
    kept, moves = (getattr(run.policy, name)(run.start, block) for name in ("live", "moves"))
    return Recorded(tuple(seen), len(kept), len(moves), tuple(still))


def _rolled(
    policy: CachePolicy,
    block: int,
    sampler: Sampler | None,
    layers: int,
    blocks: int,
    at: int = 0,
    event: type[Event] | None = None,
) -> tuple[list[BlockRead], Any]:
    """What every block reads. With ``at`` an event is announced before that block, or the prompt changes there."""
    passes: list[tuple[Step, ReadPlan]] = []

    class Recording(RolloutMemory):
        def begin(self, step: Step, plan: ReadPlan) -> None:
            passes.append((step, plan))
            super().begin(step, plan)

    rolls = Rolls(policy, sampler, block, BLOCKS + LATER, layers, memory=Recording)
    text = {0: condition()} | ({at * block: condition(name="other")} if at and event is None else {})
    run = rolls.start(text)
    read: list[BlockRead] = []
    for made in range(blocks):
        if event is not None and made == at:
            run.announce(event)
        next(run)
        read.append(_of_block(Step.of(made, block), passes))
    next(run)  # which commits the last of them
    return [_with_commit(each, passes) for each in read], run


def _of_block(step: Step, passes: list[tuple[Step, ReadPlan]]) -> BlockRead:
    """The passes of a block so far, the last denoising pass that holds its frames first of all."""
    own = [(past, plan) for past, plan in passes if past.phase is Phase.DENOISE and step.start in past.frames]
    reread = {
        frame for past, _ in passes for frame in past.frames if past.phase is Phase.RECACHE and past.index == step.index
    }
    plans = {tuple(plan.segments) for _, plan in own} if not _tensors(own[-1][1]) else {()}
    last, plan = own[-1]
    return BlockRead(last, plan, differ=len(plans) > 1, reread=frozenset(reread))


def _with_commit(read: BlockRead, passes: list[tuple[Step, ReadPlan]]) -> BlockRead:
    """The same with the plan of the commit, which runs when the next block is asked for."""
    commits = [plan for past, plan in passes if past.phase is Phase.COMMIT and past.start == read.step.start]
    if not commits or commits[-1].entries() == read.plan.entries():
        return read
    return BlockRead(read.step, read.plan, read.differ, commits[-1], read.reread, read.event)


def _tensors(plan: ReadPlan) -> bool:
    return any(hasattr(run.tokens, "shape") for run in plan.segments)


def _all_earlier(read: BlockRead) -> bool:
    """Whether a block reads every frame before it, each at its own time."""
    return sorted(read.plan.entries()) == [(frame, frame) for frame in range(read.step.start)]


def _same(one: BlockRead, other: BlockRead) -> bool:
    first, second = ((read.plan.entries(), read.plan.query, read.reread) for read in (one, other))
    return first == second


def entries(plan: ReadPlan) -> Iterator[tuple[int, int, float, str]]:
    """Content, time, bias and restriction of every frame that is read."""
    for run in plan.segments:
        limits = [name for name in ("layers", "heads", "tokens") if getattr(run, name) is not None]
        limits += [f"branch {run.branch}"] if run.branch else []
        for content, time in run.entries():
            yield content, time, run.bias, ", ".join(limits)
