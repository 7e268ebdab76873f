"""LongLive's "infinity" variant: frame by frame, and on tensors, against a rolling buffer of raw keys."""

from __future__ import annotations

import random

import pytest
import torch
from rollforge_longlive import LongLiveInfinity
from torch import Tensor

from rollforge.backbones.base import Backbone, Condition
from rollforge.errors import UserError
from rollforge.memory import Memory, Rope
from rollforge.noise import normal
from rollforge.policies import SlidingIndices
from rollforge.positions.rope import rotate
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep
from rollforge.spec import Phase, PromptSwitch, Step
from rollforge.testing import check_plans, check_policy, check_resume
from rollforge.testing.tiny import SHAPE, condition, network

STEPS = (1000.0, 500.0)


class Buffered:
    """The released buffer: the sink, then the newest frames, read in order at 0, 1, 2 ..."""

    def __init__(self, window: int, sink: int, fresh: bool, switches: set[int]) -> None:
        self.window, self.sink, self.fresh, self.switches = window, sink, fresh, switches
        self.frames: list[int] = []

    def __call__(self, step: Step) -> tuple[list[tuple[int, int]], int]:
        if step.phase is Phase.DENOISE:
            if step.index in self.switches:
                kept = [] if self.fresh or step.start <= self.window else self.frames[: self.sink]
                self.frames = [*kept, *range(max(0, step.start - self.window + len(kept)), step.start)]
            while len(self.frames) + step.block > self.window:
                del self.frames[self.sink]
        read = [(frame, place) for place, frame in enumerate(self.frames)]
        if step.phase is Phase.COMMIT:
            self.frames = [*self.frames, *step.frames]
        return read, len(read)


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(("block", "context", "sink"), [(3, 3, 1), (2, 5, 2), (1, 4, 0)])
def test_a_thousand_blocks_read_what_a_rolling_buffer_holds(block: int, context: int, sink: int, fresh: bool) -> None:
    switches = {*random.Random(block).sample(range(1, 1000), 100), 2}
    expected = Buffered((context + 1) * block, sink * block, fresh, switches)
    events = {index: [PromptSwitch] for index in switches}
    check_plans(LongLiveInfinity(context, sink, global_sink=not fresh), expected, block=block, events=events)


def test_it_passes_the_kit_and_differs_from_sliding_indices_by_a_shift() -> None:
    check_policy(LongLiveInfinity(), blocks=300, same_as=SlidingIndices(3, 1))


class Buffer(Memory):
    """A pass reads raw keys of a buffer, rotated to 0, 1, 2 ... in its order; its own come right after them."""

    def __init__(self, model: Backbone, context: list[dict[int, tuple[Tensor, Tensor]]], frames: int) -> None:
        self.context, self.made = context, dict[int, tuple[Tensor, Tensor]]()
        places = list(range(len(context) + frames))
        self.rotation = Rope().rotation(model.spec, places, torch.device("cpu"))
        self.own = Rope().rotation(model.spec, places[len(context) :], torch.device("cpu"))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        self.made[layer] = k, v
        keys = rotate(torch.cat([*(frame[layer][0] for frame in self.context), k], 1), self.rotation)
        values = torch.cat([*(frame[layer][1] for frame in self.context), v], 1)
        scores = torch.einsum("bqhd,bkhd->bhqk", rotate(q, self.own), keys) / q.shape[-1] ** 0.5
        return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), values)


def released(model: Backbone, texts: dict[int, Condition], frames: int, fresh: bool) -> Tensor:
    """A window of 12 frames with a sink of 3, in plain tensors; at a switch the frames of the window run again."""
    block, window, sink, size = 3, 12, 3, model.spec.tokens
    kept: dict[int, dict[int, tuple[Tensor, Tensor]]] = {}
    buffer, made, text = list[int](), list[Tensor](), texts[0]

    def run(x: Tensor, t: float, seen: list[int], own: range) -> Tensor:
        memory = Buffer(model, [kept[frame] for frame in seen], len(own))
        flow: Tensor = model(x, torch.full(x.shape[:2], t), text, memory)
        for n, frame in enumerate(own if t == 0 else []):
            rows = slice(n * size, (n + 1) * size)
            kept[frame] = {layer: (k[:, rows], v[:, rows]) for layer, (k, v) in memory.made.items()}
        return flow

    for start in range(0, frames, block):
        if start and start in texts:
            text = texts[start]
            stays = [] if fresh or start <= window else buffer[:sink]
            again = range(max(0, start - window + len(stays)), start)
            run(torch.cat(made, 1)[:, again.start : again.stop], 0.0, stays, again)
            buffer = [*stays, *again]
        while len(buffer) + block > window:
            del buffer[sink]
        own = range(start, start + block)
        noise = [torch.stack([normal(3, 0, frame, level, SHAPE) for frame in own])[None] for level in (0, 1)]
        clean = noise[0] - run(noise[0], 1000.0, buffer, own)
        x = 0.5 * clean + 0.5 * noise[1]
        made.append(x - 0.5 * run(x, 500.0, buffer, own))
        run(made[-1], 0.0, buffer, own)
        buffer = [*buffer, *own]
    return torch.cat(made, 1)


@pytest.mark.parametrize("fresh", [False, True])
@torch.no_grad()
def test_a_rollout_over_switches_is_that_of_a_buffer_of_raw_keys(fresh: bool) -> None:
    model, texts = network(layers=2), {0: condition(), 6: condition(name="second"), 18: condition(name="third")}
    rollout = Rollout(model, LongLiveInfinity(global_sink=not fresh), FewStep(STEPS, shift=1.0))
    rolled = torch.cat([block.latents for block in rollout(texts, 30, seed=3)], dim=1)
    torch.testing.assert_close(rolled, released(model, texts, 30, fresh), rtol=0, atol=2e-5)


def test_it_resumes_across_switches_with_and_without_keys() -> None:
    check_resume(LongLiveInfinity(global_sink=False), switches=(2, 6))


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"^LongLiveInfinity got context_blocks=3, .*expected sink_blocks <"):
        LongLiveInfinity(3, 3)
