"""A wrapper that changes nothing gives the video of the policy in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rollforge.policies import CachePolicy, LongLive, PolicyWrapper, RollingSink, Window
from rollforge.spec import ReadPlan, Seen, Step
from rollforge.testing.tiny import Rolls, condition


class Watches(Window):
    """Reads one block fewer once the keys that it has seen sum up to more than 0."""

    observes, sees = (0,), ("k",)

    def __init__(self) -> None:
        super().__init__(2)
        self.total = 0.0

    def observe(self, step: Step, layer: int | None, seen: Seen) -> None:
        assert seen.k is not None
        self.total += float(seen.k.abs().sum())

    def plan(self, step: Step) -> ReadPlan:
        plan = super().plan(step)
        return plan if self.total < 20 else ReadPlan.of(plan.entries()[-step.block :], plan.query)


def test_every_part_of_the_contract_is_handed_on() -> None:
    contract = {name for name in vars(CachePolicy) if not name.startswith("_")} - {"revisited"}
    assert contract <= vars(PolicyWrapper).keys()


@pytest.mark.parametrize("policy", [RollingSink(3, 2), LongLive(3, 1), Watches()], ids=lambda each: type(each).__name__)
def test_wrapped_policy_gives_the_same_video_and_resumes(policy: CachePolicy) -> None:
    bare, wrapped = Rolls(policy), Rolls(PolicyWrapper(policy))
    prompts: Any = {0: condition(), 12: condition(name="second")}
    expected = bare.blocks_of(prompts)
    assert all(torch.equal(one, other) for one, other in zip(wrapped.blocks_of(prompts), expected, strict=True))
    run = wrapped.start(prompts)
    for _ in range(5):
        next(run)
    rest = wrapped.blocks_of(prompts, state=run.state_dict(True))
    assert all(torch.equal(one, other) for one, other in zip(rest, expected[5:], strict=True))
