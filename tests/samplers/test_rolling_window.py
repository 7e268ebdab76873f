"""A sampler with several blocks in progress at once (Rolling Forcing), which the contract must carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rollforge.backbones.base import Backbone, Condition
from rollforge.backbones.wan.network import Wan
from rollforge.doctor.probe import passes_per_block
from rollforge.noise import IndependentNoise
from rollforge.policies import CachePolicy, LongLive, Window
from rollforge.rollout import Rollout
from rollforge.rollout.block_check import BlockCheck
from rollforge.samplers import Job, Pass, Passes, Sampler
from rollforge.samplers.base import Finished
from rollforge.snapshots.packing import pack, unpack
from rollforge.spec import ModelSpec, Phase, Step

LEVELS = (1000.0, 600.0, 300.0)


class Rolling(Sampler):
    """Denoises a window of blocks together, each one level cleaner than the one after it.

    Args:
        levels: falling noise levels; as many blocks are in progress.
        estimates: whether the oldest block enters the memory before it is finished.
    """

    def __init__(self, levels: Sequence[float] = LEVELS, estimates: bool = False) -> None:
        self.timesteps, self.in_flight, self.estimates = list(levels), len(levels), estimates
        self.window: list[Tensor] = []  # the blocks in progress, the oldest first
        self.done: list[int] = []  # passes that each has had

    def run(self, job: Job) -> Passes:
        steps = iter(job.steps)
        started = [next(steps) for _ in self.window]
        while True:
            if (new := next(steps, None)) is not None:
                started.append(new)
                self.window.append(job.noise(new, 0))
                self.done.append(0)
            if not started:
                return
            count = sum(len(step.frames) for step in started)
            sizes = [len(step.frames) for step in started]
            levels = [torch.tensor([self.timesteps[n]] * size) for n, size in zip(self.done, sizes, strict=True)]
            lower = [
                torch.tensor([[*self.timesteps, 0.0][n + 1]] * size) for n, size in zip(self.done, sizes, strict=True)
            ]
            now, then = torch.cat(levels)[None], torch.cat(lower)[None]
            x = torch.cat(self.window, dim=1)
            flow = yield Pass(replace(started[0], count=count), x, now)
            if self.estimates:
                clean = (x - (now / 1000)[..., None, None, None] * flow)[:, : sizes[0]]
                yield Pass(replace(started[0], phase=Phase.ESTIMATE), clean, 0.0)
            x = x + ((then - now) / 1000)[..., None, None, None] * flow
            self.window, self.done = list(x.split(sizes, dim=1)), [n + 1 for n in self.done]
            if self.done[0] == len(self.timesteps):
                step, made = started.pop(0), self.window.pop(0)
                self.done.pop(0)
                yield Finished(step, made)
                yield from self.commit(step, made, job.noise)

    def dropped(self, step: Step) -> None:
        self.window, self.done = [], []


@pytest.fixture(scope="module")
def model() -> Wan:
    torch.manual_seed(0)
    made = Wan(2, 4, 2, 24, 2, 2, 32, 16, 4, 3, block=2, window=6, horizon=6).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return made


def text(seed: int = 0, rows: int = 1) -> Condition:
    return Condition(f"text {seed} {rows}", torch.randn(rows, 3, 4, generator=torch.Generator().manual_seed(seed)))


def roll(model: Backbone, policy: CachePolicy, sampler: Sampler, **how: Any) -> Any:
    return Rollout(model, policy, sampler)({0: text(), 6: text(1)}, 14, **how)


@pytest.mark.parametrize("estimates", [False, True])
@pytest.mark.parametrize("kv", [True, False])
def test_it_resumes_after_any_block_and_switches_prompts(model: Wan, kv: bool, estimates: bool) -> None:
    policy, sampler = LongLive(2, 1), Rolling(estimates=estimates)
    whole = [block.latents for block in roll(model, policy, sampler)]
    assert len(whole) == 7
    alone = [block.latents for block in Rollout(model, policy, sampler)(text(), 14)]
    assert [torch.equal(one, other) for one, other in zip(whole, alone, strict=True)] == [n < 3 for n in range(7)]
    for cut in (1, 3, 6):
        run = roll(model, policy, sampler)
        before = [next(run).latents for _ in range(cut)]
        state = unpack(*pack(run.state_dict(kv)))
        after = [block.latents for block in roll(model, policy, sampler, state=state, finished=[] if kv else before)]
        assert all(map(torch.equal, [*before, *after], whole))
    assert not sampler.window


def test_a_batch_equals_runs_of_one(model: Wan) -> None:
    rollout, prompts = Rollout(model, Window(2), Rolling()), text(3, rows=2)
    batch = [block.latents for block in rollout(prompts, 12, samples=[4, 1])]
    for row, sample in enumerate((4, 1)):
        alone = rollout(Condition(str(row), prompts.embeds[row : row + 1]), 12, samples=[sample])
        for together, block in zip(batch, alone, strict=True):
            torch.testing.assert_close(together[row : row + 1], block.latents, rtol=0, atol=1e-5)


class Elementwise(Backbone):
    """A network in which no frame depends on another."""

    def __init__(self) -> None:
        super().__init__()
        self.spec, self.gain = ModelSpec(2, 4, 2, (2, 2), 1, 1, 6, 2, 6, 6, 4.0), torch.nn.Parameter(torch.ones(1))

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Any) -> Tensor:
        tokens = latents.new_ones(len(latents), latents.shape[1] * 2, 1, 6)
        memory.attend(0, tokens, tokens, tokens)
        return torch.sin(latents) * (0.3 + timesteps[..., None, None, None] / 1000)


def test_every_frame_falls_from_level_to_level() -> None:
    made = torch.cat([block.latents for block in Rollout(Elementwise(), Window(2), Rolling())(text(), 10)], dim=1)
    x = torch.cat([IndependentNoise().batch(0, [0], range(n, n + 2), 0, (2, 4, 2)) for n in range(0, 10, 2)], dim=1)
    for level, lower in zip(LEVELS, [*LEVELS[1:], 0.0], strict=True):
        x = x + (lower - level) / 1000 * torch.sin(x) * (0.3 + level / 1000)
    torch.testing.assert_close(made, x, rtol=0, atol=1e-5)


class BrokenOnce(Rolling):
    """Finishes block 2 badly the first time."""

    def run(self, job: Job) -> Passes:
        running, reply = super().run(job), None
        while True:
            try:
                request = running.send(reply)
            except StopIteration:
                return
            if isinstance(request, Finished) and request.step.index == 2 and len(TRIES) < 1:
                TRIES.append(1)
                request = replace(request, latents=request.latents * 1e9)
            reply = yield request


TRIES: list[int] = []


def test_a_refused_block_lets_the_sampler_discard_what_was_in_progress() -> None:
    run = Rollout(Elementwise(), Window(2), BrokenOnce(), check=BlockCheck("retry"))(text(), 10)
    made = list(run)
    plain = list(Rollout(Elementwise(), Window(2), Rolling())(text(), 10))
    same = [torch.allclose(one.latents, other.latents, atol=1e-5) for one, other in zip(made, plain, strict=True)]
    assert run.attempts == {2: [1]}
    assert same == [True, True, False, True, True]


def test_the_probe_counts_its_passes(model: Wan) -> None:
    assert Rolling().passes(2) == 6
    assert passes_per_block(Rolling(), model.spec) == pytest.approx(3 + 1)  # each block is in three, and its commit
