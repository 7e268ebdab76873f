"""The check of resuming: an interrupted rollout equals the uninterrupted one, for components of all kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from rollforge.policies.base import CachePolicy
from rollforge.rollout import RolloutIterator
from rollforge.samplers.base import Sampler
from rollforge.snapshots.packing import pack, unpack
from rollforge.spec import Event
from rollforge.state import State
from rollforge.testing.rolled import saved_in
from rollforge.testing.rules import expect, keeping, same
from rollforge.testing.tiny import REPLAYED, Rolls, condition


def check_resume(
    policy: CachePolicy | None = None,
    sampler: Sampler | None = None,
    *,
    block: int = 3,
    blocks: int = 8,
    switches: Sequence[int] = (),
    events: Mapping[int, tuple[type[Event], Mapping[str, Any]]] | None = None,
    **options: Any,
) -> None:
    """Interrupts a rollout of a tiny network after every block and resumes it in a new one, in both modes of snapshots.

    With ``kv: save`` the rest equals the uninterrupted rollout bit for bit; with ``kv: recompute`` up to 1e-6, as the
    latents are committed again. What is saved goes through the form that snapshots have on disk.

    Args:
        policy: default: the last two blocks. One that cannot be recomputed, or whose sampler cannot, is only saved.
        sampler: default: one step.
        block: frames of a block.
        blocks: how many are rolled.
        switches: numbers of blocks at which another prompt comes into force.
        events: events to announce before a block, by its number: a type and its fields, as ``{4: (Cut, {})}``.
        options: further arguments of ``Rollout``: ``noise``, ``positions``, ``kv_codec``, ``combine`` or ``encode``.

    Raises:
        CheckFailed: with the block at which both differ.
    """
    rolls = Rolls(policy, sampler, block, blocks, layers=2, **options)
    part = sampler if policy is None and sampler is not None else rolls.rollout.policy
    text = {0: condition()} | {index * block: condition(name=f"prompt {index}") for index in switches}
    rule = "sampler-resume" if part is sampler else "policy-resume"
    happens = events or {}
    with keeping(rule, part, "without interruption"):
        whole = _finish(rolls.start(text), happens)
    expect(len(whole) == blocks, rule, part, f"{len(whole)} blocks came, not {blocks}.")
    for mode, kv in saved_in(rolls.rollout).items():
        with keeping(rule, part, f"while its state was saved ({mode})"):
            run = rolls.start(text)
            states = [_cut(run, happens, kv) for _ in range(blocks - 1)]
        for count, state in enumerate(states, 1):
            when = f"Cut after {count} of {blocks} blocks of {block} ({mode})"
            with keeping(rule, part, when):
                rest = _finish(rolls.start(text, state=state, finished=whole[:count]), happens, count)
            expect(len(rest) == blocks - count, rule, part, f"{when}, {len(rest)} blocks came.")
            for index, latents in enumerate(rest, count):
                same(rule, part, f"{when}, in block {index}", latents, whole[index], 0 if kv else REPLAYED)


Happens = Mapping[int, tuple[type[Event], Mapping[str, Any]]]


def _announce(run: RolloutIterator, events: Happens, index: int) -> None:
    if index in events:
        event, fields = events[index]
        run.announce(event, **fields)


def _cut(run: RolloutIterator, events: Happens, kv: bool) -> State:
    """Makes one block more, announces what comes next, and saves."""
    if run.index == 0:
        _announce(run, events, 0)
    made = next(run)
    _announce(run, events, made.index + 1)
    tree, tensors = pack(run.state_dict(kv=kv))
    return unpack(tree, {name: tensor.clone() for name, tensor in tensors.items()})


def _finish(run: RolloutIterator, events: Happens, index: int = 0) -> list[Tensor]:
    """The blocks from number ``index`` on, of which the events were announced before a state was saved."""
    made: list[Tensor] = []
    if index == 0:
        _announce(run, events, 0)
    for block in run:
        made.append(block.latents)
        if not bool(block.latents.isfinite().all()):
            raise ValueError(f"block {block.index} has numbers that are not finite")
        _announce(run, events, block.index + 1)
    return made
