"""Checks that hold for every rollout: batches, interleaved rollouts, and interruptions."""

from __future__ import annotations

import torch

from rollforge.rollout import Rollout
from rollforge.rollout.abilities import not_batching
from rollforge.state import same as equal
from rollforge.testing.rules import expect, keeping, same
from rollforge.testing.tiny import REPLAYED, TOLERANCE, Rolls, condition, row_of


def check_batch(kind: str, part: object, rolls: Rolls) -> None:
    """A batch of two equals two rollouts of one, unless the component declares that videos are generated one by one."""
    if not_batching(rolls.rollout):
        return
    rule, text = f"{kind}-batch", condition(2)
    with keeping(rule, part, f"with two samples in blocks of {rolls.block}"):
        both = rolls.blocks_of(text, (0, 1))
        for row in (0, 1):
            alone = rolls.blocks_of(row_of(text, row), (row,))
            expect(len(alone) == len(both), rule, part, f"Sample {row} has {len(alone)} blocks, not {len(both)}.")
            for index, (one, two) in enumerate(zip(alone, both, strict=True)):
                same(rule, part, f"In sample {row}, block {index}", two[row : row + 1], one, TOLERANCE)


def check_turns(kind: str, part: object, rolls: Rolls) -> None:
    """Two interleaved rollouts equal each of them alone."""
    rule, texts = f"{kind}-separate", (condition(1), condition(1, "other"))
    with keeping(rule, part, "with two rollouts at once"):
        alone = [rolls.blocks_of(text) for text in texts]
        turns = zip(*(rolls.start(text) for text in texts), strict=True)
        for index, pair in enumerate(turns):
            for number, block in enumerate(pair):
                same(rule, part, f"In rollout {number}, block {index}", block.latents, alone[number][index])


def check_cuts(kind: str, part: object, rolls: Rolls) -> None:
    """A rollout that is interrupted after any block resumes exactly, with and without keys and values."""
    rule = f"{kind}-resume"
    uncut = rolls.start()
    whole = [block.latents for block in uncut]
    for mode, kv in saved_in(rolls.rollout).items():
        with keeping(rule, part, f"while its state was saved ({mode})"):
            states = list(rolls.cut(kv))
        for count, state in states:
            when = f"Cut after {count} of {rolls.blocks} blocks of {rolls.block} ({mode})"
            with keeping(rule, part, when):
                resumed = rolls.start(state=state, finished=whole[:count])
                later = [block.latents for block in resumed]
            expect(
                len(later) == len(whole) - count, rule, part,
                f"{when}, {len(later)} blocks came, not {len(whole) - count}.",
            )  # fmt: skip
            for index, latents in enumerate(later, count):
                same(rule, part, f"{when}, in block {index}", latents, whole[index], 0 if kv else REPLAYED)
            if kind == "policy" and kv:
                left, expected = resumed.policy.state_dict(), uncut.policy.state_dict()
                problem = f"{when} its state is {left!s:.200}, and without a cut {expected!s:.200}."
                expect(equal(left, expected), "policy-state", part, problem)


def saved_in(rollout: Rollout) -> dict[str, bool]:
    """The modes of snapshots that policy and sampler can resume from, and whether they hold keys and values."""
    modes = {"snapshots.kv: save": True, "snapshots.kv: recompute": False}
    return {mode: kv for mode, kv in modes.items() if kv or (rollout.policy.recomputes and rollout.sampler.recomputes)}


def finite(latents: torch.Tensor) -> bool:
    """Whether all numbers are."""
    return bool(latents.isfinite().all())
