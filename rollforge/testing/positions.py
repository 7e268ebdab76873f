"""The checks of positions, and of what joins the branches of a plan."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from rollforge.memory.base import Now
from rollforge.memory.combine import Combine
from rollforge.policies import RollingSink, SlidingIndices, Window
from rollforge.positions import Positions
from rollforge.spec import Phase, Step
from rollforge.state import same as equal
from rollforge.testing.rules import expect, fail, keeping, same
from rollforge.testing.tiny import TOLERANCE, network

TIMES = (0, 3, 5, 1_000_000)


def check_positions(positions: Positions, *, tolerance: float = TOLERANCE) -> None:
    """Checks positions with the spec of a tiny network.

    Args:
        positions: as a config would build them.
        tolerance: how far rotated keys may differ, relative to the largest.

    Raises:
        CheckFailed: with the rule, the step and the values.
    """
    spec = network().spec
    known: dict[Hashable, tuple[str, Any]] = {}
    for policy in (Window(2), SlidingIndices(3, 1), RollingSink(3, 2)):
        for index, level in ((0, 0), (1, 0), (2, 0), (2, 1), (40, 0), (41, 2)):
            step = Step.of(index, spec.block, Phase.DENOISE, level)
            plan = policy.plan(step)
            at = f"At block {index}, level {level}, under {type(policy).__name__}"
            with keeping("positions-repeat", positions, at):
                placed = positions.place(spec, TIMES, step, plan)
                again = positions.place(spec, TIMES, step, plan)
                key = positions.key(spec, step, plan)
                where, other = known.setdefault(key, (at, placed))
            expect(
                equal(placed, again), "positions-repeat", positions, f"{at} places {TIMES} otherwise when asked again."
            )
            expect(equal(placed, other), "positions-key", positions, f"{at} and {where[3:]} the key is {key!s:.60}.")
            _turned(positions, placed, [positions.place(spec, (time,), step, plan) for time in TIMES], at, tolerance)
    with keeping("positions-repeat", positions, "In training, without a step and a plan"):
        positions.place(spec, TIMES)


def _turned(positions: Positions, placed: Any, singles: Sequence[Any], at: str, tolerance: float) -> None:
    spec = network().spec
    for dtype in (torch.float32, torch.bfloat16):
        given = torch.randn(2, len(TIMES) * spec.tokens, spec.heads, spec.head_dim).to(dtype)
        mine = given.clone()
        with keeping("positions-shape", positions, f"{at} ({dtype})"):
            found = positions.turn(mine, _of_a_layer(placed))
        if found.shape != given.shape or found.dtype != dtype or not bool(found.isfinite().all()):
            problem = f"{at} {list(given.shape)}, {dtype} are turned to {list(found.shape)}, {found.dtype}"
            fail("positions-shape", positions, f"{problem}, or not all are finite.")
        same("positions-repeat", positions, f"{at}, in what was given to turn,", mine, given)
        pieces = zip(given.split(spec.tokens, dim=1), singles, strict=True)
        alone = torch.cat([positions.turn(piece, _of_a_layer(single)) for piece, single in pieces], dim=1)
        same("positions-frame", positions, f"{at}, frame by frame,", alone.float(), found.float(), tolerance)


def _of_a_layer(placed: Any) -> Any:
    """The placement of the first layer."""
    return placed[0] if isinstance(placed, list) else placed


def check_combine(combine: Combine) -> None:
    """Checks what joins the branches of a plan, with two and three of them.

    Raises:
        CheckFailed: with the rule and the values.
    """
    spec = network().spec
    now = Now(range(3), range(3))
    for branches in (2, 3):
        outputs = [torch.randn(2, 3 * spec.tokens, spec.heads, spec.head_dim) for _ in range(branches)]
        mine = [each.clone() for each in outputs]
        at = f"With {branches} branches"
        with keeping("combine-shape", combine, at):
            found = combine(mine, 0, spec, now)
            again = combine(mine, 0, spec, now)
        if found.shape != outputs[0].shape or not bool(found.isfinite().all()):
            problem = f"{at} of {list(outputs[0].shape)} it answers {list(found.shape)}, or not all are finite."
            fail("combine-shape", combine, problem)
        same("combine-repeat", combine, f"{at}, asked again,", again, found)
        for each, given in zip(mine, outputs, strict=True):
            same("combine-repeat", combine, f"{at}, in what was given,", each, given)
        for row in (0, 1):
            alone: Tensor = combine([each[row : row + 1] for each in outputs], 0, spec, now)
            same("combine-batch", combine, f"{at}, in row {row},", found[row : row + 1], alone, TOLERANCE)
