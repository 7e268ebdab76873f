"""The loop: the same blocks whatever else runs next to it, before it, in its batch or after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.backbones.wan.network import Wan
from rollforge.errors import UserError
from rollforge.noise import RepeatedNoise
from rollforge.policies import AttentionSink, CachePolicy, LongLive, RollingSink, SlidingIndices, Window
from rollforge.rollout import Block, Rollout
from rollforge.samplers import Euler, FewStep, Finished, Job, Pass, Passes, Sampler
from rollforge.spec import Phase, ReadPlan, Segment, Step

BLOCK = 2
POLICIES = [Window(2), AttentionSink(2, 1), SlidingIndices(2, 1), RollingSink(2, 1)]
FEW = FewStep([1000, 500])


def backbone(block: int = BLOCK) -> Wan:
    torch.manual_seed(0)
    model = Wan(2, 4, 2, 24, 2, 2, 32, 16, 4, 3, block=block, window=6, horizon=6).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return model


@pytest.fixture(scope="module")
def model() -> Wan:
    return backbone()


def text(rows: int = 1, seed: int = 0) -> Condition:
    generator = torch.Generator().manual_seed(seed)
    return Condition(f"text {seed}", torch.randn(rows, 3, 4, generator=generator))


def video(blocks: Any) -> Tensor:
    return torch.cat([block.latents for block in blocks], dim=1)


def test_six_lines_roll_a_video(model: Wan) -> None:
    rollout = Rollout(model, RollingSink(2, 1), FEW)
    made = list(rollout(text(), frames=7, seed=0))
    assert [(block.index, block.start) for block in made] == [(0, 0), (1, 2), (2, 4), (3, 6)]
    assert all(block.latents.shape == (1, BLOCK, 2, 4, 2) and not block.latents.requires_grad for block in made)
    assert video(made).isfinite().all()
    assert all(parameter.grad is None for parameter in model.parameters())


class InTurns(Wan):
    """Runs guidance branches one after another."""

    def join(self, conditions: Any) -> None:
        return None


@pytest.mark.parametrize("guided", [None, 4])
@pytest.mark.parametrize("policy", POLICIES)
def test_guidance_branches_in_one_batch_equal_branches_in_turns(policy: CachePolicy, guided: int | None) -> None:
    one, other, sampler = backbone(), backbone(), Euler(2, guidance=2.0, guided_blocks=guided)
    other.__class__ = InTurns
    prompts = {0: text(2), 6: text(2, seed=1)}
    made, expected = (video(Rollout(each, policy, sampler)(prompts, 16, negative=text(2, 2))) for each in (one, other))
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sampler", [FEW, Euler(2, guidance=2.0)])
def test_a_commit_pass_ends_with_the_keys_of_its_last_layer(sampler: Sampler) -> None:
    model, runs = backbone(), [0, 0]

    def roll() -> Tensor:
        return video(Rollout(model, RollingSink(2, 1), sampler)(text(), 12, negative=text(seed=1)))

    for n, layer in enumerate(model.blocks):
        layer.ffn.register_forward_hook(lambda *_, n=n: runs.__setitem__(n, runs[n] + 1))  # type: ignore[union-attr]
    made = roll()
    assert runs == [6 * 2 + 5, 6 * 2]  # the last block is not committed
    model.blocks[-1].last = False  # type: ignore[assignment]
    assert torch.equal(roll(), made)


@pytest.mark.parametrize(("frames", "blocks"), [(1, 1), (2, 1), (3, 2), (8, 4)])
def test_frames_are_rounded_up_to_whole_blocks(model: Wan, frames: int, blocks: int) -> None:
    assert len(list(Rollout(model, Window(2), FEW)(text(), frames))) == blocks


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_the_first_blocks_do_not_depend_on_the_length(model: Wan, policy: CachePolicy) -> None:
    rollout = Rollout(model, policy, FEW)
    long = video(rollout(text(), 14, seed=3))
    for frames in (2, 6, 12):
        assert torch.equal(video(rollout(text(), frames, seed=3)), long[:, :frames])


def test_seed_and_sample_number_decide_the_noise(model: Wan) -> None:
    def rolled(**how: Any) -> Tensor:
        return video(Rollout(model, Window(2), FEW)(text(), 4, **how))

    assert torch.equal(rolled(), rolled(seed=0, samples=[0]))
    assert not torch.allclose(rolled(), rolled(seed=1))
    assert not torch.allclose(rolled(), rolled(samples=[1]))


@pytest.mark.parametrize("sampler", [FEW, Euler(steps=3, guidance=2.0)], ids=["few_step", "euler"])
@pytest.mark.parametrize("policy", [Window(2), RollingSink(2, 1)], ids=lambda policy: type(policy).__name__)
def test_a_batch_equals_runs_of_one(model: Wan, policy: CachePolicy, sampler: Sampler) -> None:
    prompts, negative, numbers = text(3), text(3, seed=9), [4, 0, 7]
    rollout = Rollout(model, policy, sampler)
    batch = video(rollout(prompts, 10, seed=1, samples=numbers, negative=negative))
    for row, number in enumerate(numbers):
        alone = rollout(
            Condition("alone", prompts.embeds[row : row + 1]),
            10,
            seed=1,
            samples=[number],
            negative=Condition("not alone", negative.embeds[row : row + 1]),
        )
        torch.testing.assert_close(batch[row : row + 1], video(alone), rtol=0, atol=1e-5)
    assert not torch.allclose(batch[0], batch[1], atol=1e-2)


class Counting(Window):
    """A window that keeps state: it narrows to one block once three are committed."""

    committed = 0

    def on_commit(self, step: Step) -> None:
        self.committed += 1

    def plan(self, step: Step) -> ReadPlan:
        length = min(step.start, (2 if self.committed < 3 else 1) * step.block)
        first = step.start - length
        return ReadPlan((Segment(first, first, length),) if length else (), step.start)


@pytest.mark.parametrize("policy", [RollingSink(2, 1), Counting(2)], ids=lambda policy: type(policy).__name__)
def test_interleaved_rollouts_do_not_touch_each_other(model: Wan, policy: CachePolicy) -> None:
    rollout = Rollout(model, policy, FEW)
    starts: list[Callable[[], Any]] = [
        lambda: rollout(text(), 12, seed=0),
        lambda: rollout(text(2, seed=5), 12, seed=8),
        lambda: Rollout(model, Window(1), FEW, RepeatedNoise())(text(), 12, seed=0),
    ]
    apart = [video(start()) for start in starts]
    rounds = list(zip(*(start() for start in starts), strict=True))
    for alone, together in zip(apart, zip(*rounds, strict=True), strict=True):
        assert torch.equal(video(together), alone)


def test_a_policy_with_state_starts_each_rollout_afresh(model: Wan) -> None:
    policy = Counting(2)
    rollout = Rollout(model, policy, FEW)
    first = video(rollout(text(), 12))
    assert torch.equal(video(rollout(text(), 12)), first)
    assert policy.committed == 0
    plain = video(Rollout(model, Window(2), FEW)(text(), 12))
    assert torch.equal(plain[:, :6], first[:, :6])
    assert not torch.allclose(plain[:, 6:], first[:, 6:])  # its state was in use


def test_a_rollout_can_be_left_early(model: Wan) -> None:
    rollout = Rollout(model, Window(2), FEW)
    endless = rollout(text(), frames=10**9)
    first = [next(endless) for _ in range(3)]
    del endless
    assert torch.equal(video(first), video(rollout(text(), 6)))


def test_frame_by_frame_models_roll_one_frame_at_a_time() -> None:
    single = backbone(block=1)
    made = list(Rollout(single, RollingSink(4, 3), FEW)(text(), 11))
    assert [(block.index, block.start, block.latents.shape[1]) for block in made] == [(n, n, 1) for n in range(11)]
    wider = list(Rollout(single, Window(10), FEW)(text(), 11))
    assert torch.equal(video(made)[:, :5], video(wider)[:, :5])  # up to block K every policy sees everything
    assert not torch.allclose(video(made)[:, 6:], video(wider)[:, 6:])


@pytest.mark.parametrize("sampler", [FEW, Euler(steps=2, guidance=3.0)], ids=["few_step", "euler"])
def test_given_frames_are_continued_as_if_they_had_been_made(model: Wan, sampler: Sampler) -> None:
    rollout = Rollout(model, RollingSink(2, 1), sampler)
    whole = list(rollout(text(), 12, seed=2, negative=text(seed=1)))
    again = list(rollout(text(), 12, seed=2, negative=text(seed=1), given=video(whole[:3])))
    assert [(block.index, block.start) for block in again] == [(block.index, block.start) for block in whole]
    assert torch.equal(video(again), video(whole))


def test_given_frames_matter(model: Wan) -> None:
    rollout = Rollout(model, Window(2), FEW)
    other = torch.randn(1, 4, 2, 4, 2, generator=torch.Generator().manual_seed(1))
    continued = video(rollout(text(), 8, given=other))
    assert torch.equal(continued[:, :4], other)
    assert not torch.allclose(continued[:, 4:], video(rollout(text(), 8))[:, 4:], atol=1e-3)


def test_an_image_is_a_block_of_one_frame(model: Wan) -> None:
    image = torch.randn(1, 1, 2, 4, 2, generator=torch.Generator().manual_seed(1))
    made = list(Rollout(model, Window(2), FEW)(text(), 6, given=image))
    assert [(block.start, block.latents.shape[1]) for block in made] == [(0, 1), (1, 2), (3, 2), (5, 2)]
    assert torch.equal(made[0].latents, image)
    other = list(Rollout(model, Window(2), FEW)(text(), 6, given=-image))
    assert not torch.allclose(video(made)[:, 1:], video(other)[:, 1:], atol=1e-3)


def test_given_frames_that_fill_no_block_come_first(model: Wan) -> None:
    given = torch.randn(1, 5, 2, 4, 2, generator=torch.Generator().manual_seed(1))
    made = list(Rollout(model, RollingSink(2, 1), FEW)(text(), 9, given=given))
    assert [(block.start, block.latents.shape[1]) for block in made] == [(0, 1), (1, 2), (3, 2), (5, 2), (7, 2)]
    assert torch.equal(video(made)[:, :5], given)


def test_no_more_frames_are_given_than_the_video_has(model: Wan) -> None:
    with pytest.raises(UserError, match=r"^10 given frames for a video of 8"):
        list(Rollout(model, Window(2), FEW)(text(), 8, given=torch.zeros(1, 10, 2, 4, 2)))


@pytest.mark.parametrize("shape", [(2, 2, 2, 4, 2), (1, 2, 3, 4, 2), (1, 2, 2, 4, 4)])
def test_given_frames_must_fit_the_prompts_and_the_model(model: Wan, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="given"):
        list(Rollout(model, Window(2), FEW)(text(), 8, given=torch.zeros(shape)))


class Hoarding(RollingSink):
    """Rolling Sink that keeps every live frame raw, as a policy that says nothing does."""

    def moves(self, start: int, block: int) -> frozenset[int]:
        return self.live(start, block)


def test_frames_without_a_master_are_read_all_the_same(model: Wan) -> None:
    lean = video(Rollout(model, RollingSink(2, 1), FEW)(text(), 20))
    assert torch.equal(video(Rollout(model, Hoarding(2, 1), FEW)(text(), 20)), lean)


def prompts(*starts: int) -> dict[int, Condition]:
    return {start: text(seed=n) for n, start in enumerate(starts)}


def test_a_prompt_switch_takes_effect_at_the_next_block(model: Wan) -> None:
    alone = video(Rollout(model, Window(2), FEW)(text(), 12))
    for start, first in ((4, 4), (5, 6)):
        switched = video(Rollout(model, Window(2), FEW)(prompts(0, start), 12))
        assert torch.equal(switched[:, :first], alone[:, :first])
        assert not torch.allclose(switched[:, first:], alone[:, first:], atol=1e-3)


@pytest.mark.parametrize("recache", ["block", "full"])
@pytest.mark.parametrize("global_sink", [True, False])
def test_recaching_equals_a_history_prefilled_under_the_new_prompt(model: Wan, recache: Any, global_sink: bool) -> None:
    """LongLive: after the switch the cache must be what the new prompt alone would have made of the frames."""
    policy = LongLive(3, 1, 3, recache, global_sink)
    switched = video(Rollout(model, policy, FEW)(prompts(0, 6), 12))
    plain = video(Rollout(model, AttentionSink(3, 1), FEW)(prompts(0, 6), 12))
    assert torch.equal(switched[:, :6], plain[:, :6])
    assert not torch.allclose(switched[:, 6:8], plain[:, 6:8], atol=1e-3)
    if recache == "block" and not global_sink:  # every frame is read again: a rollout that was given them all
        given = video(Rollout(model, AttentionSink(3, 1), FEW)(text(seed=1), 12, given=switched[:, :6]))
        torch.testing.assert_close(switched, given, rtol=0, atol=1e-5)


def test_the_first_prompt_starts_at_the_beginning(model: Wan) -> None:
    with pytest.raises(UserError, match="must start at frame 0"):
        list(Rollout(model, Window(2), FEW)(prompts(2, 4), 8))


class Traced(Sampler):
    """Runs another sampler and remembers its passes."""

    def __init__(self, inner: Sampler) -> None:
        self.inner, self.guidance_branches = inner, inner.guidance_branches
        self.requests: list[Pass] = []

    def run(self, job: Job) -> Passes:
        running, answer = self.inner.run(job), None
        while True:
            try:
                request = running.send(answer) if answer is not None else next(running)
            except StopIteration:
                return
            if not isinstance(request, Finished):
                self.requests.append(request)
            answer = yield request


def test_each_lane_reads_its_own_prompt_and_memory(model: Wan) -> None:
    guided = Rollout(model, Window(2), Euler(steps=3, guidance=2.0))
    plain = video(Rollout(model, Window(2), Euler(steps=3))(text(), 8))
    alike = video(guided(text(), 8, negative=text()))  # flow + g (flow - flow)
    torch.testing.assert_close(alike, plain, rtol=0, atol=1e-5)
    unlike = video(guided(text(), 8, negative=text(seed=1)))
    assert not torch.allclose(unlike, plain, atol=1e-3)
    swapped = video(Rollout(model, Window(2), Euler(steps=3, guidance=0.0))(text(seed=1), 8, negative=text()))
    torch.testing.assert_close(swapped, plain, rtol=0, atol=1e-5)  # guidance 0 is the negative prompt alone


def test_the_last_block_is_not_committed_and_all_others_are(model: Wan) -> None:
    calls: list[Phase] = []

    class Listening(Window):
        def on_commit(self, step: Step) -> None:
            calls.append(step.phase)

    sampler = Traced(Euler(steps=2, guidance=2.0))
    run = Rollout(model, Listening(2), sampler)(text(), 8, negative=text(), given=torch.zeros(1, 2, 2, 4, 2))
    list(run)
    assert calls == [Phase.PREFILL, Phase.COMMIT, Phase.COMMIT]  # once for each block, not for each branch
    assert sum(len(request.branches) for request in run.sampler.requests) == 3 * (4 + 2)
    assert not sampler.requests  # the rollout has its own copy


def test_a_sampler_may_override_the_plan(model: Wan) -> None:
    class Blind(FewStep):
        def run(self, job: Job) -> Passes:
            running, answer = super().run(job), None
            while True:
                try:
                    request = running.send(answer) if answer is not None else next(running)
                except StopIteration:
                    return
                if isinstance(request, Pass):
                    request = Pass(request.step, request.latents, request.timestep, plan=ReadPlan((), 0))
                answer = yield request

    blind = video(Rollout(model, Window(2), Blind([1000, 500]), RepeatedNoise())(text(), 6))
    seeing = video(Rollout(model, Window(2), FEW, RepeatedNoise())(text(), 6))
    assert torch.equal(blind[:, :2], seeing[:, :2])
    assert not torch.allclose(blind[:, 2:], seeing[:, 2:], atol=1e-3)


class Wrong(Window):
    def __init__(self, plan: ReadPlan) -> None:
        super().__init__(2)
        self.wrong = plan

    def plan(self, step: Step) -> ReadPlan:
        return self.wrong if step.index == 2 else super().plan(step)


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        (ReadPlan((Segment(2, 2, 3),), 4), "The plan of block 2 reads frame 4, which is not in the memory"),
        (ReadPlan.of([(-1, 0)], 4), "The plan of block 2 reads frame -1, which is not in the memory"),
        (ReadPlan.of([(3, n) for n in range(5)], 9), "The plan of block 2 reads 5 frames; its policy declared 4."),
    ],
)
def test_a_policy_whose_plan_cannot_be_read_is_told(model: Wan, plan: ReadPlan, sentence: str) -> None:
    made: list[Block] = []
    with pytest.raises(UserError, match="block 2") as error:
        made.extend(Rollout(model, Wrong(plan), FEW)(text(), 8))
    expected = "The cache policy Wrong cannot be followed at block 2 (denoise, level 0): "
    assert str(error.value).startswith(expected + sentence)


def test_a_forgotten_frame_cannot_be_read(model: Wan) -> None:
    class Forgetful(Window):
        def live(self, start: int, block: int) -> frozenset[int]:
            return super().live(start, block) - {0}

    with pytest.raises(UserError, match=r"Forgetful .*: The plan of block 1 reads frame 0, which is not in the memory"):
        list(Rollout(model, Forgetful(2), FEW)(text(), 8))


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"frames": 0}, "A rollout needs 1 frame or more, not 0."),
        ({"frames": 4, "samples": [1, 2]}, "1 prompts came with 2 sample numbers; give one for each."),
    ],
)
def test_a_call_that_cannot_work_says_so_at_once(model: Wan, how: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        Rollout(model, Window(2), FEW)(text(), **how)  # not even iterated
    assert str(error.value).startswith(sentence)


def test_guidance_needs_a_negative_prompt(model: Wan) -> None:
    with pytest.raises(UserError, match="Euler uses guidance: it needs the features of a negative prompt"):
        Rollout(model, Window(2), Euler(guidance=3.0))(text(), 4)
