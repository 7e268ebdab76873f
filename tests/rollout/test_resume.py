"""A rollout that is cut off after any block and goes on from its state equals one that was not, bit for bit."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.backbones.wan.network import Wan
from rollforge.errors import UserError
from rollforge.memory import IdentityKVCodec
from rollforge.noise import IndependentNoise
from rollforge.policies import AttentionSink, CachePolicy, LongLive, RollingSink, SlidingIndices, Window
from rollforge.rollout import Rollout, RolloutIterator
from rollforge.rollout.block_check import BlockCheck
from rollforge.samplers import Euler, FewStep, Finished, Job, Pass, Passes, Sampler
from rollforge.snapshots.packing import pack, unpack
from rollforge.spec import Phase, ReadPlan, Step
from rollforge.state import State, Stateful, odd

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


CUTS: Any = {
    "policy": st.sampled_from(POLICIES),
    "sampler": st.sampled_from(SAMPLERS),
    "switch": st.sampled_from([None, 6, 14]),
    "opening": st.sampled_from([0, 1, 3, 4]),
    "cut": st.integers(1, 10),
    "kv": st.booleans(),
}


@settings(max_examples=25, deadline=None)
@given(**CUTS)
def test_what_comes_after_a_cut_is_what_would_have_come(model: Wan, **cut: Any) -> None:
    assert_resumed(model, **cut)


@pytest.mark.matrix
@settings(max_examples=250, deadline=None)
@given(**CUTS)
def test_what_comes_after_a_cut_is_what_would_have_come_in_many_cases(model: Wan, **cut: Any) -> None:
    assert_resumed(model, **cut)


def assert_resumed(
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
    with pytest.raises(UserError, match="saved latents end at frame 6, the snapshot at frame 8"):
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


@pytest.mark.parametrize("kv", [True, False])
def test_what_a_sampler_remembers_goes_with_it(model: Wan, kv: bool) -> None:
    whole = list(roll(model, Window(2), Cumulative(), None, 0))
    run = roll(model, Window(2), Cumulative(), None, 0)
    before = [next(run).latents for _ in range(5)]
    state = through_a_file(run.state_dict(kv))
    after = list(roll(model, Window(2), Cumulative(), None, 0, state=state, finished=[] if kv else before))
    assert torch.equal(after[-1].latents, whole[-1].latents)


class Learning(Window):
    """Narrows by what it counts while it plans: commits that are run again do not bring that back."""

    def __init__(self) -> None:
        super().__init__(3)
        self.planned = 0

    def moves(self, start: int, block: int) -> frozenset[int]:
        return self.live(start, block)

    def plan(self, step: Step) -> ReadPlan:
        if step.phase is Phase.COMMIT:
            return super().plan(step)
        self.planned += 1
        length = min(step.start, BLOCK * (1 + self.planned % 3))
        return ReadPlan.of(((frame, frame) for frame in range(step.start - length, step.start)), step.start)


class Swinging(Wan):
    """A network with a state of its own: each pass pushes all that follow."""

    passes = 0

    def rollout_state(self) -> State:
        return {"passes": self.passes}

    def load_rollout_state(self, state: State) -> None:
        self.passes = state.get("passes", 0)

    def forward(self, *inputs: Any, **options: Any) -> Tensor:
        self.passes += 1
        return super().forward(*inputs, **options) + 0.01 * self.passes


class Fading(IdentityKVCodec, Stateful):
    """Keeps each frame a little weaker than the one before."""

    kept = 0

    def encode(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.kept = self.kept + 1
        return k * 0.999**self.kept, v.clone()


@pytest.mark.parametrize("kv", [True, False])
def test_components_with_state_resume_and_take_turns(kv: bool) -> None:
    torch.manual_seed(0)
    network = Swinging(2, 4, 2, 24, 2, 2, 32, 16, 4, 3, block=BLOCK, window=6, horizon=6).eval()
    rollout = Rollout(network, Learning(), Accumulating(), kv_codec=Fading())
    whole = [block.latents for block in rollout(text(), FRAMES)]
    one, other = rollout(text(), FRAMES), rollout(text(1), FRAMES)
    before = [next(one).latents for _ in range(5) if next(other)]
    state = through_a_file(one.state_dict(kv))
    after = [block.latents for block in rollout(text(), FRAMES, state=state, finished=[] if kv else before)]
    assert all(map(torch.equal, before, whole))
    assert all(torch.equal(block.latents, made) for block, made in zip(one, whole[5:], strict=True))
    for made, expected in zip(after, whole[5:], strict=True):  # recomputed keys lie in another order in the buffers
        torch.testing.assert_close(made, expected, rtol=0, atol=0 if kv else 1e-5)


class Accumulating(FewStep):
    """Pushes each block by what it has counted so far, in a list."""

    def __init__(self) -> None:
        super().__init__([1000, 500])
        self.made: list[float] = []

    def run(self, job: Job) -> Passes:
        for step in job.steps:
            self.made.append(0.1)
            flow = yield Pass(step, job.noise(step, 0), 1000.0)
            clean = job.noise(step, 0) - flow + sum(self.made)
            yield Finished(step, clean)
            yield from self.commit(step, clean, job.noise)


def test_a_block_made_again_starts_from_the_components_as_they_were(model: Wan) -> None:
    class BrokenOnce(Accumulating):
        def __init__(self, tries: int) -> None:
            super().__init__()
            self.refused: list[int] = []
            self.broken = Broken(1.0, tries)

        def state_dict(self) -> State:
            return {"made": list(self.made)}

        def dropped(self, step: Step) -> None:
            self.refused = [*self.refused, step.index]

        def run(self, job: Job) -> Passes:
            running, reply = super().run(job), None
            while True:
                try:
                    request = running.send(reply)
                except StopIteration:
                    return
                if isinstance(request, Finished) and self.broken.bad(request.step):
                    request = Finished(request.step, request.latents * float("nan"))
                reply = yield request

    def rolled(tries: int) -> tuple[RolloutIterator, list[Tensor]]:
        check = BlockCheck("retry", limit=1e6)
        rollout = Rollout(model, Learning(), BrokenOnce(tries), NoiseOfFrames(), check=check)
        run = rollout(text(), 12)
        return run, [block.latents for block in run]

    (run, made), (plain_run, plain) = rolled(2), rolled(0)
    assert run.attempts == {3: [2]}
    assert run.sampler.refused[-1] == 3
    assert run.sampler.made == plain_run.sampler.made
    assert run.policy.planned == plain_run.policy.planned
    assert all(map(torch.equal, made, plain))  # the noise is the same, so the block is


class NoiseOfFrames(IndependentNoise):
    """The same for every seed."""

    def draw(self, seed: int, sample: int, frames: range, level: int, shape: Any) -> Tensor:
        return super().draw(0, sample, frames, level, shape)


class Prefetching(FewStep):
    """Requests all blocks before it makes the first."""

    def run(self, job: Job) -> Passes:
        yield from super().run(replace(job, steps=list(job.steps)))


@pytest.mark.parametrize("kv", [True, False])
def test_a_switch_takes_effect_when_its_block_is_made_not_when_it_is_requested(model: Wan, kv: bool) -> None:
    lazy, eager = FewStep([1000, 500]), Prefetching([1000, 500])
    whole = [block.latents for block in roll(model, LongLive(2, 1), lazy, 10, 0)]
    run = roll(model, LongLive(2, 1), eager, 10, 0)
    before = [next(run).latents for _ in range(3)]
    finished = [] if kv else before
    after = [*roll(model, LongLive(2, 1), eager, 10, 0, state=through_a_file(run.state_dict(kv)), finished=finished)]
    assert all(map(torch.equal, [*before, *(block.latents for block in after)], whole))


def test_what_cannot_be_kept_is_named() -> None:
    class Odd(Stateful):
        def __init__(self) -> None:
            self.fine = {"a": [1, (2.0, None, torch.zeros(1))]}
            self.table = {"b": [lambda: None]}

    with pytest.raises(UserError, match=r"Odd cannot be saved: its attribute table\.b\.0 \(function\)"):
        Odd().state_dict()
    assert odd(Odd().fine) is None


class Tally:
    """A counter outside of any state: copies of a sampler share it."""

    count = 0

    def __deepcopy__(self, memo: Any) -> Tally:
        return self


class Broken(FewStep):
    """Makes a bad block at 3, until it is tried again often enough."""

    def __init__(self, worth: float, tries: int = 99) -> None:
        super().__init__([1000, 500])
        self.worth, self.tries, self.drawn = worth, tries, Tally()

    def bad(self, step: Step) -> bool:
        self.drawn.count += step.index == 3
        return step.index == 3 and self.drawn.count <= self.tries

    def run(self, job: Job) -> Passes:
        for step in job.steps:
            x: Tensor = job.noise(step, 0)
            if self.bad(step):
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
                if self.bad(step):
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
