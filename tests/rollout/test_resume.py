"""A rollout that is cut off after any block and goes on from its state equals one that was not, bit for bit."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.backbones.wan.network import Wan
from rollforge.errors import UserError
from rollforge.policies import AttentionSink, CachePolicy, LongLive, RollingSink, SlidingIndices, Window
from rollforge.rollout import Rollout, RolloutIterator
from rollforge.rollout.block_check import BlockCheck
from rollforge.samplers import Euler, FewStep, Finished, Job, Passes, Sampler
from rollforge.snapshots.packing import pack, unpack
from rollforge.spec import ReadPlan, Step
from rollforge.state import Stateful, odd

BLOCK, FRAMES = 2, 24
POLICIES = [
    Window(2), AttentionSink(2, 1), SlidingIndices(2, 1), RollingSink(2, 1), RollingSink(3, 2),
    LongLive(2, 1, 2), LongLive(2, 1, 3, "full", True),
]  # fmt: skip
SAMPLERS = [FewStep([1000, 500], context_noise=50.0), Euler(steps=2, guidance=2.0)]


@pytest.fixture(scope="module")
def model() -> Wan:
    torch.manual_seed(0)
    made = Wan(2, 4, 2, 24, 2, 2, 32, 16, 4, 3, block=BLOCK, window=6, horizon=6).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return made


def text(seed: int = 0) -> Condition:
    return Condition(f"text {seed}", torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(seed)))


def roll(model: Wan, policy: CachePolicy, sampler: Sampler, switch: int | None, opening: int, **how: Any) -> Any:
    prompts = {0: text()} | ({switch: text(1)} if switch else {})
    opened = torch.ones(1, opening, 2, 4, 2) if opening else None
    negative = text(9) if "negative" in sampler.guidance_branches else None
    return Rollout(model, policy, sampler)(prompts, FRAMES, negative=negative, given=opened, **how)


def through_a_file(state: Any) -> Any:
    """The state as a snapshot would give it back."""
    return unpack(*pack(deepcopy(state)))


@settings(max_examples=60, deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    sampler=st.sampled_from(SAMPLERS),
    switch=st.sampled_from([None, 6, 14]),
    opening=st.sampled_from([0, 1, 3, 4]),
    cut=st.integers(1, 10),
    kv=st.booleans(),
)
def test_what_comes_after_a_cut_is_what_would_have_come(
    model: Wan, policy: CachePolicy, sampler: Sampler, switch: int | None, opening: int, cut: int, kv: bool
) -> None:
    whole = list(roll(model, policy, sampler, switch, opening))
    run = roll(model, policy, sampler, switch, opening)
    before = [next(run) for _ in range(cut)]
    state = through_a_file(run.state_dict(kv))
    finished = [] if kv else [block.latents for block in before]
    after = list(roll(model, policy, sampler, switch, opening, state=state, finished=finished))
    made = [*before, *after]
    assert [(block.index, block.start) for block in made] == [(block.index, block.start) for block in whole]
    assert all(torch.equal(one.latents, other.latents) for one, other in zip(made, whole, strict=True))


def test_telling_the_state_changes_nothing_and_is_not_changed(model: Wan) -> None:
    whole = list(roll(model, RollingSink(2, 1), SAMPLERS[0], 8, 0))
    run, states = roll(model, RollingSink(2, 1), SAMPLERS[0], 8, 0), []
    made = []
    for block in run:
        made.append(block)
        states.append(through_a_file(run.state_dict()))
    assert all(torch.equal(one.latents, other.latents) for one, other in zip(made, whole, strict=True))
    again = list(roll(model, RollingSink(2, 1), SAMPLERS[0], 8, 0, state=states[3]))
    assert torch.equal(again[-1].latents, whole[-1].latents)
    assert not list(roll(model, RollingSink(2, 1), SAMPLERS[0], 8, 0, state=states[-1]))


def test_a_state_stays_small(model: Wan) -> None:
    """Each live frame is kept once, and the state of a long rollout is no larger than that of a short one."""

    def numbers(blocks: int) -> int:
        run = roll(model, RollingSink(2, 1), SAMPLERS[0], None, 0)
        for _ in range(blocks):
            next(run)
        return sum(tensor.numel() for tensor in pack(run.state_dict())[1].values())

    spec, live = model.spec, len(RollingSink(2, 1).live(FRAMES, BLOCK))
    frame = 2 * spec.layers * spec.tokens * spec.heads * spec.head_dim  # keys and values
    pending = BLOCK * spec.channels * spec.height * spec.width
    assert numbers(5) == numbers(11) <= (live + BLOCK) * frame + pending


def test_too_few_finished_latents_are_told(model: Wan) -> None:
    run = roll(model, Window(2), SAMPLERS[0], None, 0)
    before = [next(run) for _ in range(4)]
    state = run.state_dict(kv=False)
    with pytest.raises(UserError, match="kept latents end at frame 6, the snapshot at frame 8"):
        list(roll(model, Window(2), SAMPLERS[0], None, 0, state=state, finished=[b.latents for b in before[:3]]))


class Counting(Window):
    """Remembers commits, and looks at them from the eighth frame on."""

    def __init__(self) -> None:
        super().__init__(3)
        self.seen: list[int] = []

    def on_commit(self, step: Step) -> None:
        self.seen = [*self.seen[-3:], step.start]

    def plan(self, step: Step) -> ReadPlan:
        return ReadPlan.of(((start, start) for start in self.seen[-2:]), step.start)


@pytest.mark.parametrize("kv", [True, False])
def test_what_a_policy_remembers_goes_with_it(model: Wan, kv: bool) -> None:
    policy = Counting()
    whole = list(roll(model, policy, SAMPLERS[0], None, 0))
    run = roll(model, policy, SAMPLERS[0], None, 0)
    before = [next(run) for _ in range(6)]
    state = through_a_file(run.state_dict(kv))
    finished = [block.latents for block in before]
    after = list(roll(model, policy, SAMPLERS[0], None, 0, state=state, finished=finished))
    assert torch.equal(after[-1].latents, whole[-1].latents)
    assert policy.seen == []  # the rollout has its own copy


class Cumulative(FewStep):
    """Pushes each block by what it has counted so far."""

    count = 0

    def run(self, job: Job) -> Passes:
        for step in job.steps:
            self.count = self.count + 1
            yield Finished(step, job.noise(step, 0) + self.count)
            yield from self.commit(step, torch.zeros(1, BLOCK, 2, 4, 2), job.noise)


def test_what_a_sampler_remembers_goes_with_it(model: Wan) -> None:
    whole = list(roll(model, Window(2), Cumulative(), None, 0))
    run = roll(model, Window(2), Cumulative(), None, 0)
    for _ in range(5):
        next(run)
    after = list(roll(model, Window(2), Cumulative(), None, 0, state=through_a_file(run.state_dict())))
    assert torch.equal(after[-1].latents, whole[-1].latents)


def test_what_cannot_be_kept_is_named() -> None:
    class Odd(Stateful):
        def __init__(self) -> None:
            self.fine = {"a": [1, (2.0, None, torch.zeros(1))]}
            self.table = {"b": [lambda: None]}

    with pytest.raises(UserError, match=r"Odd cannot be saved: its attribute table\.b\.0 \(function\)"):
        Odd().state_dict()
    assert odd(Odd().fine) is None


class Broken(FewStep):
    """Makes a bad block at 3, until it is tried again often enough."""

    def __init__(self, worth: float, tries: int = 99) -> None:
        super().__init__([1000, 500])
        self.worth, self.tries, self.drawn = worth, tries, 0

    def run(self, job: Job) -> Passes:
        for step in job.steps:
            x: Tensor = job.noise(step, 0)
            self.drawn += step.index == 3
            if step.index == 3 and self.drawn <= self.tries:
                x = torch.full_like(x, self.worth)
            yield Finished(step, x)
            yield from self.commit(step, x, job.noise)


@pytest.mark.parametrize(
    ("worth", "why"), [(float("nan"), "not finite"), (float("inf"), "not finite"), (1e6, "exceed")]
)
def test_a_block_that_is_no_video_stops_the_rollout(model: Wan, worth: float, why: str) -> None:
    rollout = Rollout(model, Window(2), Broken(worth), check=BlockCheck())
    made = []
    with pytest.raises(UserError, match=rf"Block 3 \(at [\d.]+ s\) .*{why}.*\(.*\)"):
        made.extend(iter(rollout(text(), FRAMES)))
    run = rollout(text(), FRAMES)
    assert [next(run).index for _ in range(3)] == [0, 1, 2]


def test_a_block_that_is_no_video_can_pass_with_a_warning(model: Wan, caplog: pytest.LogCaptureFixture) -> None:
    rollout = Rollout(model, Window(2), Broken(1e6), check=BlockCheck("warn"))
    assert len(list(rollout(text(), FRAMES))) == 12
    assert "Block 3" in caplog.text


def test_a_block_that_is_no_video_can_be_made_again(model: Wan, caplog: pytest.LogCaptureFixture) -> None:
    rollout = Rollout(model, Window(2), Broken(1e6, tries=2), check=BlockCheck("retry"))
    run = rollout(text(), FRAMES)
    made = list(run)
    plain = list(Rollout(model, Window(2), Broken(1e6, tries=0))(text(), FRAMES))
    assert run.attempts == {3: [2]}
    assert [block.index for block in made] == list(range(12))
    same = [torch.equal(one.latents, other.latents) for one, other in zip(made, plain, strict=True)]
    assert same == [n != 3 for n in range(12)]  # other noise for that block alone
    assert "1 of 3" in caplog.text


def test_only_the_sample_that_is_no_video_is_made_again(model: Wan, caplog: pytest.LogCaptureFixture) -> None:
    class BreaksRow(Broken):
        def run(self, job: Job) -> Passes:
            for step in job.steps:
                x = job.noise(step, 0).clone()
                self.drawn += step.index == 3
                if step.index == 3 and self.drawn <= self.tries:
                    x[1] = self.worth
                yield Finished(step, x)
                yield from self.commit(step, x, job.noise)

    both = Condition("both", torch.cat([text(0).embeds, text(1).embeds]))

    def rolled(tries: int) -> tuple[RolloutIterator, list[Tensor]]:
        run = Rollout(model, Window(2), BreaksRow(1e6, tries), check=BlockCheck("retry"))(both, FRAMES)
        return run, [block.latents for block in run]

    (run, made), (_, plain) = rolled(2), rolled(0)
    assert run.attempts == {3: [0, 2]}
    assert all(torch.equal(one[0], other[0]) for one, other in zip(made, plain, strict=True))
    assert [torch.equal(one[1], other[1]) for one, other in zip(made, plain, strict=True)] == [
        n != 3 for n in range(12)
    ]


def test_trying_again_ends(model: Wan) -> None:
    rollout = Rollout(model, Window(2), Broken(1e6), check=BlockCheck("retry", max_retries=2))
    with pytest.raises(UserError, match="2 other attempts were no better"):
        list(rollout(text(), FRAMES))
