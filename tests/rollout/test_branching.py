"""A saved state is a copy, and a rollout that goes on from it keeps the arguments that it was given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.backbones.wan.network import Wan
from rollforge.errors import UserError
from rollforge.memory import IdentityKVCodec
from rollforge.policies import AttentionSink, CachePolicy, LongLive, RollingSink, SlidingIndices, Window
from rollforge.rollout import Block, Rollout, RolloutIterator
from rollforge.samplers import Euler, FewStep, Sampler
from rollforge.spec import ReadPlan, Step

FRAMES, CUT = 24, 5  # blocks before the branch
FEW = FewStep([1000, 500])


@pytest.fixture(scope="module")
def model() -> Wan:
    torch.manual_seed(0)
    made = Wan(2, 4, 2, 24, 2, 2, 32, 16, 4, 3, block=2, window=6, horizon=6).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return made


def text(seed: int = 0, rows: int = 1) -> Condition:
    return Condition(f"text {seed}", torch.randn(rows, 3, 4, generator=torch.Generator().manual_seed(seed)))


def ahead(run: RolloutIterator, blocks: int) -> list[Tensor]:
    return [next(run).latents for _ in range(blocks)]


def alike(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


class Compact(CachePolicy):
    """The first block and the last two, at contiguous times."""

    def plan(self, step: Step) -> ReadPlan:
        seen = sorted(self.live(step.start, step.block))
        return ReadPlan.of(((frame, time) for time, frame in enumerate(seen)), query=len(seen))

    def live(self, start: int, block: int) -> frozenset[int]:
        return frozenset([*range(min(block, start)), *range(max(0, start - 2 * block), start)])

    def visible(self, block: int) -> int:
        return 3 * block


@pytest.mark.parametrize("kv", [True, False])
@pytest.mark.parametrize("policy", [Compact(), RollingSink(2, 1), LongLive(2, 1)], ids=lambda each: type(each).__name__)
def test_a_state_outlives_the_rollout_that_it_is_of(model: Wan, policy: CachePolicy, kv: bool) -> None:
    prompts = {0: text(), 14: text(1)}
    run = Rollout(model, policy, FEW)(prompts, FRAMES)
    before = ahead(run, CUT)
    state = run.state_dict(kv)
    after = ahead(run, 12 - CUT)  # past the switch, which reads frames again
    for _ in range(2):
        again = Rollout(model, policy, FEW)(prompts, FRAMES, state=state, finished=() if kv else before)
        assert alike(ahead(again, 12 - CUT), after)


def branch(
    model: Wan, old: tuple[CachePolicy, Sampler], new: tuple[CachePolicy, Sampler], **how: Any
) -> RolloutIterator:
    run = Rollout(model, *old)(text(), FRAMES)
    ahead(run, CUT)
    return Rollout(model, *new)(**{"condition": text(), "frames": FRAMES, "state": run.state_dict()} | how)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (Window(3), Window(2)),
        (AttentionSink(3, 1), Window(2)),
        (RollingSink(3, 2), RollingSink(2, 1)),
        (SlidingIndices(3, 1), AttentionSink(3, 1)),
    ],
    ids=lambda policy: f"{type(policy).__name__}{[*vars(policy).values()]}",
)
def test_a_branch_rolls_the_policy_that_it_was_given(model: Wan, old: CachePolicy, new: CachePolicy) -> None:
    run = Rollout(model, old, FEW)(text(), FRAMES)
    ahead(run, CUT)
    went = branch(model, (old, FEW), (new, FEW))
    made = ahead(went, 4)
    assert vars(went.policy) == vars(new)
    assert not alike(made, ahead(run, 4))
    entries = went.policy.plan(Step.of(9, 2)).entries()
    assert {content for content, _ in entries} == {content for content, _ in new.plan(Step.of(9, 2)).entries()}


@pytest.mark.parametrize(
    "new", [RollingSink(3, 2), Window(2), SlidingIndices(4, 3)], ids=lambda each: type(each).__name__
)
def test_a_branch_whose_frames_are_gone_is_refused_but_can_be_replayed(model: Wan, new: CachePolicy) -> None:
    run = Rollout(model, RollingSink(2, 1), FEW)(text(), FRAMES)
    before = ahead(run, CUT)
    with pytest.raises(
        UserError, match=rf"^The cache policy {type(new).__name__} reads frame \d+ .*of all earlier blocks"
    ):
        next(branch(model, (RollingSink(2, 1), FEW), (new, FEW)))
    went = Rollout(model, new, FEW)(text(), FRAMES, state=run.state_dict(kv=False), finished=before)
    assert len(list(went)) == 12 - CUT
    assert vars(went.policy) == vars(new)


def test_a_branch_rolls_the_sampler_that_it_was_given(model: Wan) -> None:
    went = branch(model, (Window(2), FEW), (Window(2), FewStep([1000, 750, 250])))
    assert isinstance(next(went), Block)
    assert len(went.sampler.timesteps) == 3


def test_what_the_old_policy_has_learned_goes_to_one_with_other_arguments(model: Wan) -> None:
    run = Rollout(model, LongLive(2, 1, global_sink=False), FEW)({0: text(), 8: text(1)}, FRAMES)
    ahead(run, CUT + 2)
    later = LongLive(2, 1, recache="block", global_sink=False)
    went = Rollout(model, later, FEW)({0: text(), 8: text(1)}, FRAMES, state=run.state_dict())
    assert isinstance(went.policy, LongLive)
    assert (went.policy.recache, went.policy.sink_start) == ("block", 2)
    assert alike(ahead(went, 5), ahead(run, 5))  # no switch comes any more


def test_a_branch_may_switch_to_a_prompt_that_the_first_rollout_never_had(model: Wan) -> None:
    whole = [block.latents for block in Rollout(model, LongLive(2, 1), FEW)({0: text(), 10: text(1)}, FRAMES)]
    went = branch(model, (LongLive(2, 1), FEW), (LongLive(2, 1), FEW), condition={0: text(), 10: text(1)})
    assert alike(ahead(went, 12 - CUT), whole[CUT:])


class Halved(IdentityKVCodec):
    """Another KV codec."""

    def encode(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k.half(), v.half()


def test_what_cannot_go_on_from_a_state_is_told_before_anything_is_made(model: Wan) -> None:
    run = Rollout(model, RollingSink(2, 1), FEW)(text(), FRAMES)
    ahead(run, CUT)
    state = run.state_dict()
    with pytest.raises(UserError, match="saved with another kv_codec"):
        Rollout(model, RollingSink(2, 1), FEW, kv_codec=Halved())(text(), FRAMES, state=state)
    with pytest.raises(UserError, match="saved with another number of samples"):
        Rollout(model, RollingSink(2, 1), FEW)(text(rows=2), FRAMES, state=state)
    guided = Rollout(model, RollingSink(2, 1), Euler(steps=2, guidance=2.0))
    with pytest.raises(UserError, match="saved without guidance"):
        guided(text(), FRAMES, negative=text(9), state=state)
