"""Steering a rollout that is in progress: each way equals a rollout that had it from the start, or resumes with it."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event, current_thread
from typing import Any

import pytest
import torch
from small import one_thread  # noqa: F401 - a fixture is used by being here
from torch import Tensor

from rollforge.backbones.base import DecodeStream
from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.pocket.text import PocketText
from rollforge.errors import PartError, UserError
from rollforge.pipeline import Pipeline
from rollforge.pipeline.video_rollout import VideoBlock, VideoRollout
from rollforge.policies import AttentionSink, LongLive, RollingSink, Window
from rollforge.policies.base import CachePolicy
from rollforge.samplers import Euler
from rollforge.spec import Cut
from rollforge.spec import Event as PolicyEvent

ONE, OTHER = "a red ball over snow at day", "a blue box over sand at night"
SECONDS = 4.0


def pipeline(policy: CachePolicy | None = None) -> Pipeline:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"dim": 32, "layers": 2, "heads": 2, "ffn_dim": 64, "window": 12, "horizon": 12}
    network = Pocket(**sizes, weights="random")
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.2)  # so that what a block attends to matters
    return Pipeline(
        backbone=network, conditioner=PocketText(), codec=PocketCodec(width=16, weights="random"),
        policy=policy or RollingSink(context_blocks=2, sink_blocks=1), sampler=Euler(steps=1),
    ).eval()  # fmt: skip


def some(rollout: VideoRollout, count: int) -> list[VideoBlock]:
    return [next(rollout) for _ in range(count)]


def same(one: Sequence[VideoBlock], other: Sequence[VideoBlock]) -> bool:
    return all(
        a.index == b.index and torch.equal(a.latents, b.latents) and torch.equal(a.frames, b.frames)
        for a, b in zip(one, other, strict=True)
    )


def frames(blocks: Sequence[VideoBlock]) -> Tensor:
    return torch.cat([block.frames for block in blocks], dim=1)


def test_blocks_come_with_their_frames_and_fill_the_asked_length() -> None:
    made = pipeline()
    blocks = list(made.roll([ONE, OTHER], SECONDS))
    assert [block.start for block in blocks] == [block.index * made.backbone.spec.block for block in blocks]
    assert frames(blocks).shape == (2, round(SECONDS * made.fps), *made.size[::-1], 3)
    assert frames(blocks).dtype == torch.uint8
    assert [each.prompt for each in blocks[0].requests] == [ONE, OTHER]


def decoding_in_a_thread(decode: Any = None) -> Pipeline:
    """``decode`` is called with the decoded frames of a block before they are returned."""
    made = pipeline()
    stream = made.codec.stream

    class Stream(DecodeStream):
        def __init__(self) -> None:
            self.own = stream()

        def __call__(self, latents: Tensor) -> Tensor:
            pixels = self.own(latents)
            if decode is not None:
                decode(pixels)
            return pixels

        def state_dict(self) -> Any:
            return self.own.state_dict()

        def load_state_dict(self, state: Any) -> None:
            self.own.load_state_dict(state)

    codec: Any = made.codec
    codec.own_stream, codec.stream = True, Stream
    return made


def test_next_blocks_are_generated_while_one_is_decoded_and_nothing_changes() -> None:
    go, threads = Event(), set[str]()

    def wait(_: Tensor) -> None:
        go.wait(60)
        threads.add(current_thread().name.partition("_")[0])

    whole, rollout = list(pipeline().roll(ONE, SECONDS)), decoding_in_a_thread(wait).roll(ONE, SECONDS)
    first = some(rollout, 3)  # none of which is decoded
    go.set()
    fork = rollout.fork()
    assert same([*first, *rollout], whole)
    assert same(list(fork), whole[3:])
    assert threads == {"rollforge-decoding"}


def test_error_while_decoding_in_a_thread_ends_the_rollout_and_names_the_codec() -> None:
    def fail(_: Tensor) -> None:
        raise ZeroDivisionError("no pixels")

    with pytest.raises(PartError, match=r"codec PocketCodec.*decoding block 0"):
        list(decoding_in_a_thread(fail).roll(ONE, SECONDS))


@pytest.mark.parametrize("count", [0, 1, 4])
def test_fork_continues_bit_for_bit_and_leaves_the_original_alone(count: int) -> None:
    rollout, whole = pipeline().roll(ONE, SECONDS), list(pipeline().roll(ONE, SECONDS))
    assert same(some(rollout, count), whole[:count])
    fork = rollout.fork()
    assert same(list(fork), whole[count:])
    assert same(list(rollout), whole[count:])


def test_fork_may_go_another_way() -> None:
    rollout, whole = pipeline().roll(ONE, SECONDS), list(pipeline().roll(ONE, SECONDS))
    some(rollout, 3)
    fork = rollout.fork()
    fork.switch(OTHER)
    assert not same(list(fork), whole[3:])
    assert same(list(rollout), whole[3:])


@pytest.mark.parametrize("policy", [Window(3), LongLive(3)])
def test_switch_equals_a_schedule_given_at_the_start(policy: CachePolicy) -> None:
    made = pipeline(policy)
    scheduled = made.roll([[{"prompt": ONE}, {"at": f"{9 / made.backbone.spec.fps}s", "prompt": OTHER}]], SECONDS)
    rollout = made.roll(ONE, SECONDS)
    blocks = some(rollout, 3)
    rollout.switch(OTHER)
    assert same([*blocks, *rollout], list(scheduled))
    assert rollout.requests == scheduled.requests
    assert rollout.condition_ids == scheduled.condition_ids


class Cutting(Window):
    """Notes the first frames of the blocks before which it is told of a cut."""

    def __init__(self) -> None:
        super().__init__(3)
        self.cuts: list[int] = []

    def on_event(self, event: PolicyEvent) -> Sequence[range]:
        self.cuts += [event.step.start] if isinstance(event, Cut) else []
        return ()


def test_a_prompt_with_a_cut_tells_the_policy() -> None:
    made = pipeline(Cutting())
    at = {"at": f"{8 / made.backbone.spec.fps}s", "prompt": OTHER, "cut": True}
    rollout = made.roll([[{"prompt": ONE}, at]], SECONDS)
    some(rollout, 2)
    rollout = made.roll([[{"prompt": ONE}, at]], SECONDS, state=rollout.state_dict())
    list(rollout)
    assert rollout.blocks.policy.cuts == [9]
    rollout = made.roll(ONE, SECONDS)
    for cut in (True, False, True):
        rollout.switch(OTHER, cut)
        some(rollout, 2)
    assert rollout.blocks.policy.cuts == [12]
    assert rollout.requests[0].cuts == (12,)


def test_use_equals_resuming_the_state_under_another_policy() -> None:
    made, other = pipeline(Window(4)), AttentionSink(context_blocks=2, sink_blocks=0)
    rollout = made.roll(ONE, SECONDS)
    some(rollout, 3)
    resumed = made.roll(ONE, SECONDS, policy=other, state=rollout.state_dict())
    unchanged = rollout.fork()
    rollout.use(other)
    blocks = list(rollout)
    assert same(blocks, list(resumed))
    assert not same(blocks, list(unchanged))


class Movable(Window):
    """Keeps its frames so that a later policy can move them."""

    moves = Window.live


def test_use_of_a_policy_that_moves_frames_needs_one_before_it_that_keeps_them_movable() -> None:
    other = RollingSink(context_blocks=3, sink_blocks=1)
    fixed, movable = (pipeline(policy).roll(ONE, SECONDS) for policy in (Window(4), Movable(4)))
    assert same(some(fixed, 3), some(movable, 3))
    with pytest.raises(UserError, match=r"start under one whose moves\(\) returns what its live\(\) does"):
        fixed.use(other)
    movable.use(other)
    assert not same(list(movable), list(fixed))


def test_use_of_a_policy_whose_frames_are_gone_changes_nothing() -> None:
    rollout, whole = pipeline(Window(1)).roll(ONE, SECONDS), list(pipeline(Window(1)).roll(ONE, SECONDS))
    some(rollout, 4)
    with pytest.raises(UserError, match="the state does not hold it"):
        rollout.use(Window(4))
    assert same(list(rollout), whole[4:])


@pytest.mark.parametrize("count", [0, 2, None])
def test_extend_equals_a_longer_rollout(count: int | None) -> None:
    """Also after the end, and where the end lies within a block."""
    made = pipeline()
    rollout, longer = made.roll(ONE, SECONDS), made.roll(ONE, SECONDS + 3)
    blocks = list(rollout) if count is None else some(rollout, count)
    rollout.extend(3)
    blocks += list(rollout)
    assert torch.equal(frames(blocks), frames(list(longer)))


def test_extend_within_the_last_block_shows_what_was_cut() -> None:
    made = pipeline()
    one = 1 / made.backbone.spec.fps
    rollout, longer = made.roll(ONE, 4 * one), made.roll(ONE, 5 * one)
    blocks = list(rollout)
    rollout.extend(one)
    assert torch.equal(frames([*blocks, *rollout]), frames(list(longer)))


def test_state_after_the_end_resumes_as_a_longer_video() -> None:
    made = pipeline()
    rollout = made.roll(ONE, SECONDS)
    blocks = list(rollout)
    resumed = made.roll(ONE, SECONDS + 3, state=rollout.state_dict())
    assert torch.equal(frames([*blocks, *resumed]), frames(list(made.roll(ONE, SECONDS + 3))))


def test_nothing_keeps_an_autograd_graph() -> None:
    made = pipeline()
    for network in (made.backbone, made.codec):
        network.requires_grad_(True)
    rollout = made.roll(ONE, 1)
    block = next(rollout)
    assert not block.latents.requires_grad
    assert not any(value.requires_grad for value in rollout.decoder.state_dict().values() if isinstance(value, Tensor))


@pytest.mark.parametrize(
    ("steer", "expected"),
    [
        (lambda rollout: rollout.extend(0), "give at least one latent frame"),
        (lambda rollout: rollout.extend(-1), "give at least one latent frame"),
        (lambda rollout: rollout.switch([ONE, OTHER]), "2 prompts for 1 videos"),
        (lambda rollout: rollout.switch("a zebra over snow"), "zebra"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(steer: Any, expected: str) -> None:
    rollout, whole = pipeline().roll(ONE, SECONDS), list(pipeline().roll(ONE, SECONDS))
    some(rollout, 2)
    with pytest.raises(UserError, match=expected):
        steer(rollout)
    assert same(list(rollout), whole[2:])
