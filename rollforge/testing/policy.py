"""The check of cache policies."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.memory.base import Memory
from rollforge.policies.base import CachePolicy
from rollforge.policies.wrapper import PolicyWrapper
from rollforge.spec import Phase, ReadPlan, Step
from rollforge.state import same as equal
from rollforge.testing.rolled import check_batch, check_cuts, check_turns
from rollforge.testing.rules import expect, fail, keeping, same
from rollforge.testing.tiny import TOLERANCE, Rolls, condition


def check_policy(policy: CachePolicy, *, blocks: int = 10_000, same_as: CachePolicy | None = None) -> None:
    """Checks a cache policy, frame by frame and in blocks of three.

    Args:
        policy: as a config would build it. It is copied, not changed.
        blocks: how far its plans are followed.
        same_as: a policy that reads the same frames at time indices that are all shifted by one number in each plan;
            where attention counts only differences, both must give the same video.

    Raises:
        CheckFailed: with the rule, the step and the values.
    """
    _declares(policy)
    for block in (3, 1):
        _follow(deepcopy(policy), block, blocks)
        _roll(policy, block)
        rolls = Rolls(policy, block=block)
        check_batch("policy", policy, rolls)
        check_turns("policy", policy, rolls)
        check_cuts("policy", policy, rolls)
        if same_as is not None:
            pairs = zip(rolls.blocks_of(), Rolls(same_as, block=block).blocks_of(), strict=True)
            for index, (one, other) in enumerate(pairs):
                same("policy-shift", policy, f"In block {index} of {block}", one, other, TOLERANCE)


def _declares(policy: CachePolicy) -> None:
    """Checks that a policy that observes declares what it observes."""
    kind = type(policy)
    receives, names = kind.observe is not CachePolicy.observe, "sees" in vars(policy) or kind.sees != CachePolicy.sees
    if receives and not names:
        fail("policy-observe", policy, "It has a method observe and names nothing in sees, so that it is never called.")
    if policy.sees and not receives:
        fail("policy-observe", policy, f"It names {policy.sees[0]!r} in sees and has no method observe to receive it.")


def _follow(policy: CachePolicy, block: int, blocks: int) -> None:
    """Follows the plans without a network: a memory can follow every one of them."""
    visible = policy.visible(block)
    kept: frozenset[int] = frozenset()
    for index in range(blocks):
        step = Step.of(index, block)
        # The rules of one step, not of a sequence, are checked in every block at the beginning, and in some later on.
        close, readable = index < 64 or index % 97 == 0, index < 500 or index % 13 == 0
        if close:
            _pure(policy, step)
        with keeping("policy-live", policy, f"At block {index} of {block}"):
            live = _frames(policy, policy.live(step.start, block), "live", step)
        if gone := {frame for frame in live - kept if frame >= 0}:
            fail("policy-live", policy, f"At block {index} frame {min(gone)} is live, which was not before.")
        if odd := _moves(policy, step.start, block) - live:
            fail("policy-moves", policy, f"At block {index} moves names frame {min(odd)}, which is not live.")
        for phase in (Phase.DENOISE, Phase.COMMIT) if readable else ():
            _readable(policy, replace(step, phase=phase), live, visible)
        if readable and not policy.sees:  # what others make may depend on what they have seen
            _sources(policy, step, live, close)
        policy.on_commit(replace(step, phase=Phase.COMMIT))
        kept = live | frozenset(step.frames)


def _sources(policy: CachePolicy, step: Step, live: frozenset[int], close: bool) -> None:
    """The sources of virtual frames are there, raw, when they are made; ``close`` also asks whether a state changes."""
    at = f"At block {step.index} of {step.block}"
    before = policy.state_dict() if close else {}
    with keeping("policy-virtual", policy, at):
        made = list(policy.virtual(step))
    if close and not equal(before, after := policy.state_dict()):
        fail("policy-pure", policy, f"{at} virtual changed its state from {before} to {after}.")
    if not made:
        return
    movable = _moves(policy, step.start, step.block)
    for each in made:
        for what, named in (("live", live), ("moves", movable)):
            if lost := [frame for frame in each.of if frame not in named]:
                problem = f"{at} the virtual frame {each.frame} is made from frame {lost[0]}, which {what} leaves out"
                fail("policy-virtual", policy, f"{problem}; it names {_short(named)}.")


def _readable(policy: CachePolicy, step: Step, live: frozenset[int], visible: int) -> None:
    at = f"At block {step.index} of {step.block} ({step.phase.value})"
    with keeping("policy-live", policy, at):
        plan = policy.plan(step)
    expect(isinstance(plan, ReadPlan), "policy-pure", policy, f"{at} plan answers {plan!r:.60}, not a ReadPlan.")
    contents = [content for content, _ in plan.entries()]
    if len(contents) > visible and not _layered(plan):
        fail("policy-bound", policy, f"{at} the plan reads {len(contents)} frames, and visible says {visible}.")
    if unknown := [content for content in contents if content not in live]:
        fail("policy-live", policy, f"{at} the plan reads frame {unknown[0]}; live are {_short(live)}.")


def _layered(plan: ReadPlan) -> bool:
    """Whether a plan differs by layer, so that the frames of one layer are fewer."""
    return any(getattr(segment, "layers", None) is not None for segment in plan.segments)


def _pure(policy: CachePolicy, step: Step) -> None:
    before = policy.state_dict()
    for phase in (Phase.DENOISE, Phase.COMMIT):
        asked = replace(step, phase=phase)
        with keeping("policy-pure", policy, f"At block {step.index} of {step.block} ({phase.value})"):
            first, second = _answers(policy, asked), _answers(policy, asked)
        for name, one in first.items():
            problem = f"At block {step.index} ({phase.value}) {name} answers {one!s:.200}, then {second[name]!s:.200}."
            expect(one == second[name], "policy-pure", policy, problem)
    problem = f"At block {step.index} the questions changed its state from {before} to {policy.state_dict()}."
    expect(equal(before, policy.state_dict()), "policy-pure", policy, problem)


def _answers(policy: CachePolicy, step: Step) -> dict[str, Any]:
    start, block = step.start, step.block
    plan = policy.plan(step)
    return {
        "plan": plan.entries() if isinstance(plan, ReadPlan) else plan,
        "live": policy.live(start, block),
        "moves": _moves(policy, start, block),
        "visible": policy.visible(block),
    }


def _moves(policy: CachePolicy, start: int, block: int) -> frozenset[int]:
    found: frozenset[int] = policy.moves(start, block)
    return found


def _frames(policy: CachePolicy, answer: Any, what: str, step: Step) -> frozenset[int]:
    if not isinstance(answer, frozenset) or not all(isinstance(frame, int) for frame in answer):
        fail("policy-pure", policy, f"At block {step.index} {what} answers {answer!r:.60}, not a frozenset of frames.")
    if late := [frame for frame in answer if frame >= step.start]:
        fail("policy-live", policy, f"At block {step.index} frame {late[0]} is live, which is not committed yet.")
    return answer


def _short(frames: frozenset[int]) -> str:
    listed = sorted(frames)
    return f"{listed}" if len(listed) <= 24 else f"{len(listed)} frames from {listed[0]} to {listed[-1]}"


def _roll(policy: CachePolicy, block: int) -> None:
    """Real rollouts: what the memory is given in each pass is the plan of its phase and level."""
    rolls = Rolls(policy, block=block, blocks=12)
    spy = _Spy(policy, rolls)
    starts: dict[str, dict[str, Any]] = {
        "from nothing": {},
        "from four given frames": {"given": torch.randn(1, 4, *rolls.backbone.spec.latent_shape)},
        "over two changes of prompt": {
            "text": {0: condition(), 4 * block: condition(name="second"), 9 * block: condition(name="third")}
        },
    }
    for how, options in starts.items():
        with keeping("policy-rollout", policy, f"Rolled {how} in blocks of {block}"), spy:
            made = rolls.blocks_of(**options)
        for index, latents in enumerate(made):
            problem = f"Rolled {how} in blocks of {block}, block {index} has numbers that are not finite."
            expect(latents.isfinite().all(), "policy-rollout", policy, problem)


class _Spy:
    """Compares the plan that each pass is given with the one that the policy says for it."""

    def __init__(self, policy: CachePolicy, rolls: Rolls) -> None:
        self.policy, self.rolls = policy, rolls

    def __enter__(self) -> None:
        self.hook = self.rolls.backbone.register_forward_pre_hook(self._compare)

    def __exit__(self, *_: object) -> None:
        self.hook.remove()

    def _compare(self, _: Any, arguments: tuple[Tensor, Tensor, Condition, Memory]) -> None:
        now = arguments[3].now
        if now.plan is None or now.phase is Phase.RECACHE or _learns(self.policy):
            return
        start, block = now.frames[0], self.rolls.block
        for step in self._steps(start, block, len(now.frames)):
            asked = replace(step, phase=now.phase, level=now.level)
            plan = self.policy.plan(asked)
            if (now.plan.entries(), now.plan.query) != (plan.entries(), plan.query):
                problem = f"At frame {start} ({now.phase.value}, level {now.level}) the pass reads {now.plan.entries()}"
                fail("policy-phase", self.policy, f"{problem}, and the plan is {plan.entries()}.")

    def _steps(self, start: int, block: int, count: int) -> Iterator[Step]:
        yield Step(-(-start // block), start, block, count=None if count == block else count)


def _learns(policy: CachePolicy) -> bool:
    """Whether its plans depend on what it has learned, so that a fresh policy plans otherwise."""
    plain = (CachePolicy, PolicyWrapper)
    own = any(
        all(getattr(type(policy), name) is not getattr(base, name) for base in plain)
        for name in ("on_commit", "on_event", "observe")
    )
    return own or (isinstance(policy, PolicyWrapper) and _learns(policy.policy))
