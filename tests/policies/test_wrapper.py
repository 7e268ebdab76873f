"""A wrapper that changes nothing gives the video of the policy in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rollforge.budget.settings import changed_arguments, with_context
from rollforge.policies import CachePolicy, LongLive, PolicyWrapper, RollingSink, Window
from rollforge.rollout.branching import carry_over, described
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


def test_attributes_and_advice_reach_the_policy_inside() -> None:
    wrapped = PolicyWrapper(RollingSink(6, 5))
    assert (wrapped.context_blocks, wrapped.sink_blocks) == (6, 5)
    with pytest.raises(AttributeError):
        _ = wrapped.recache_blocks
    smaller = with_context(wrapped, 4)
    assert (smaller.policy.context_blocks, wrapped.policy.context_blocks) == (4, 6)  # type: ignore[attr-defined]
    advised = "model.policy.init_args.policy.init_args."
    assert list(changed_arguments("model.policy", wrapped, smaller)) == [
        f"{advised}context_blocks: 4",
        f"{advised}sink_blocks: 3",
    ]


def test_a_policy_inside_takes_up_what_its_like_has_learned_and_nothing_of_another_class() -> None:
    learned = PolicyWrapper(LongLive(3, 1))
    learned.policy.sink_start = 9  # type: ignore[attr-defined]
    built = described(PolicyWrapper(LongLive(3, 1)), "cache policy")
    smaller, other = PolicyWrapper(LongLive(4, 1)), PolicyWrapper(LongLiveLike(3, 1))
    assert not carry_over(smaller, built, learned.state_dict())
    assert not carry_over(other, built, learned.state_dict())
    assert (smaller.sink_start, smaller.context_blocks, other.sink_start) == (9, 4, 0)


class LongLiveLike(LongLive):
    """The same under another name."""


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
