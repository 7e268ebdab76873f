"""What a network can ask of a rollout's memory besides attention, and memories, positions and codecs of others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rollforge.backbones.base import Backbone, Condition
from rollforge.errors import UserError
from rollforge.memory import (
    FixedPositions,
    FullMemory,
    IdentityKVCodec,
    MaskedMemory,
    NoPositions,
    Positions,
    RolloutMemory,
    Rope,
)
from rollforge.policies import LongLive, RollingSink, SlidingIndices, Window
from rollforge.policies.base import CachePolicy
from rollforge.positions.rope import axis_frequencies
from rollforge.rollout import Rollout
from rollforge.rollout.block_check import BlockCheck
from rollforge.samplers import FewStep
from rollforge.spec import ModelSpec, Phase, ReadPlan, Step, Virtual

BLOCK, FRAMES = 2, 16
SPEC = ModelSpec(2, 2, 2, (1, 1), 2, 2, 6, BLOCK, 6, 6, 4.0)
FEW = FewStep([1000, 500], shift=1.0)


def text(rows: int = 1) -> Condition:
    return Condition(f"{rows}", torch.zeros(rows, 1, 1))


class Recurrent(Backbone):
    """Adds up what it has seen, decaying, in one layer; the other attends, or does nothing."""

    def __init__(self, attends: bool = False) -> None:
        super().__init__()
        self.spec, self.attends = replace(SPEC, layers=2 if attends else 1), attends
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Any) -> Tensor:
        def scan(before: Tensor | None) -> tuple[Tensor, Tensor]:
            total = torch.zeros_like(latents[:, 0]) if before is None else before
            outputs = []
            for frame in latents.unbind(1):
                total = 0.9 * total + self.gain * frame
                outputs.append(total)
            return torch.stack(outputs, 1), total

        x = memory.carry(0, "sum", scan)
        if self.attends:
            tokens = x.permute(0, 1, 3, 4, 2).flatten(1, 3)[:, :, None].repeat(1, 1, 2, 3)
            x = x + memory.attend(1, tokens, tokens, tokens)[..., 0, :2].unflatten(1, (-1, 2, 2)).permute(0, 1, 4, 2, 3)
        return torch.tanh(x) + latents


def made(rollout: Rollout, frames: int = FRAMES, rows: int = 1, **how: Any) -> Tensor:
    return torch.cat([block.latents for block in rollout(text(rows), frames, **how)], dim=1)


@pytest.mark.parametrize("attends", [False, True])
def test_recurrent_state_is_kept_by_commits_alone(attends: bool) -> None:
    network, policy = Recurrent(attends), Window(2)
    whole = made(Rollout(network, policy, FEW))
    if not attends:  # by hand: the state after all blocks committed before
        total, block = torch.zeros(1, 2, 2, 2), []
        for start in range(0, FRAMES, BLOCK):
            x = torch.cat([Rollout(network, policy, FEW).noise.batch(0, [0], range(start, start + 2), 0, (2, 2, 2))])
            for n, level in enumerate((1.0, 0.5)):
                sums = [0.9 * total + 0.5 * x[:, 0]]
                sums.append(0.9 * sums[0] + 0.5 * x[:, 1])
                clean = x - level * (torch.tanh(torch.stack(sums, 1)) + x)
                if n == 0:
                    noise = Rollout(network, policy, FEW).noise.batch(0, [0], range(start, start + 2), 1, (2, 2, 2))
                    x = 0.5 * clean + 0.5 * noise
            block.append(clean)
            for frame in clean.unbind(1):
                total = 0.9 * total + 0.5 * frame
        torch.testing.assert_close(whole, torch.cat(block, 1), rtol=0, atol=1e-5)
    for cut in range(1, FRAMES // BLOCK):
        for kv in (True, False):
            run = Rollout(network, policy, FEW)(text(), FRAMES)
            before = [next(run).latents for _ in range(cut)]
            after = made(Rollout(network, policy, FEW), state=run.state_dict(kv), finished=() if kv else before)
            assert torch.equal(torch.cat([*before, after], 1), whole)
    assert torch.equal(made(Rollout(network, policy, FEW), rows=2)[:1], whole)


def test_recurrent_state_can_be_read_again_from_any_retained_block() -> None:
    prompts = {0: text(), 10: Condition("other", torch.zeros(1, 1, 1))}
    blocks = list(Rollout(Recurrent(), LongLive(2, 1), FEW)(prompts, FRAMES))
    assert torch.equal(torch.cat([block.latents for block in blocks], 1), made(Rollout(Recurrent(), Window(2), FEW)))


def test_recurrent_state_of_training_passes() -> None:
    network, clip, levels = Recurrent(), torch.randn(1, 6, 2, 2, 2), torch.zeros(1, 6)
    one = network(clip, levels, text(), FullMemory(SPEC, range(6)))
    assert torch.equal(one, network(clip, levels, text(), MaskedMemory.diffusion_forcing(SPEC, 6)))
    with pytest.raises(UserError, match="DiffusionForcing"):
        network(torch.cat([clip, clip], 1), levels.repeat(1, 2), text(), MaskedMemory.teacher_forcing(SPEC, 6))


class Reader(Backbone):
    """Has no keys; reads the clean latents that the plan names."""

    def __init__(self, of: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.spec, self.gain, self.of = SPEC, nn.Parameter(torch.tensor(0.5)), of

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Any) -> Tensor:
        frames = self.of or [frame for frame, _ in memory.now.plan.entries()]
        seen = memory.history(frames).mean(1, keepdim=True) if frames else 0.0
        return latents - self.gain * torch.cos(latents + seen)


def test_committed_latents_are_the_context_of_a_network_without_keys() -> None:
    policy = SlidingIndices(2, 1)
    video = made(Rollout(Reader(), policy, FEW))
    for index in range(1, FRAMES // BLOCK):
        seen = [frame for frame, _ in policy.plan(Step.of(index, BLOCK)).entries()]
        context, frames = video[:, seen].mean(1, keepdim=True), range(index * BLOCK, index * BLOCK + 2)
        noise = [Rollout(Reader(), policy, FEW).noise.batch(0, [0], frames, level, (2, 2, 2)) for level in (0, 1)]
        first = noise[0] - (noise[0] - 0.5 * torch.cos(noise[0] + context))
        x = 0.5 * first + 0.5 * noise[1]
        torch.testing.assert_close(video[:, frames], x - 0.5 * (x - 0.5 * torch.cos(x + context)), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="latents of frame 0, which are not kept"):
        made(Rollout(Reader(of=(0,)), Window(1), FEW))
    with pytest.raises(UserError, match="FullMemory keeps no latents"):
        FullMemory(SPEC, range(2)).history([0])


class Attends(Backbone):
    """One attention over its own latents in each layer."""

    def __init__(self, positions: Positions) -> None:
        super().__init__()
        self.spec, self.positions, self.gain = SPEC, positions, nn.Parameter(torch.tensor(0.5))

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Any) -> Tensor:
        x = latents.permute(0, 1, 3, 4, 2).flatten(1, 3)[:, :, None].repeat(1, 1, 2, 3)  # [B, L, 2, 6]
        for layer in range(2):
            x = memory.attend(layer, x + self.gain, 2 * x, torch.sin(x))
        return latents - x[..., 0, :2].unflatten(1, (-1, 2, 2)).permute(0, 1, 4, 2, 3)


class Uncached(RolloutMemory):
    """Turns every key again in each pass."""

    def begin(self, step: Step, plan: ReadPlan) -> None:
        self._placements = {}
        self._invalidate(set(self.raw))
        super().begin(step, plan)


class Slowing(Rope):
    """A step-dependent rotation that overrides only what rotates."""

    def place(self, spec: ModelSpec, times: Any, step: Step | None = None, plan: ReadPlan | None = None) -> Any:
        speed = 1.0 if step is None else 1 / (1 + step.index)
        return super().place(spec, [time * speed for time in times], step, plan)


class Spanned(Rope):
    """Scales time by the span of the plan, as FLEX does."""

    def frequencies(self, spec: ModelSpec, step: Step | None, plan: ReadPlan | None) -> Tensor:
        span = 1 if plan is None else max([plan.query, *(time for _, time in plan.entries())]) + 1
        return super().frequencies(spec, step, plan) * min(1.0, 5 / span)


class PerLayer(Rope):
    """Rotates every layer and head at a speed of its own."""

    def place(self, spec: ModelSpec, times: Any, step: Step | None = None, plan: ReadPlan | None = None) -> Any:
        return [Rope.place(_Heads(self.theta, 2 + layer), spec, times, step, plan) for layer in range(spec.layers)]


class _Heads(Rope):
    def __init__(self, theta: float, speed: float) -> None:
        self.theta, self.speed = theta, speed

    def temporal(self, spec: ModelSpec, step: Step | None = None) -> Tensor:
        return torch.stack([axis_frequencies(1, self.theta) * self.speed, axis_frequencies(1, self.theta)])


@pytest.mark.parametrize("positions", [Rope(), Slowing(), Spanned(), PerLayer()], ids=lambda each: type(each).__name__)
def test_cached_keys_are_turned_again_exactly_when_their_placements_change(positions: Positions) -> None:
    network, policy = Attends(positions), RollingSink(2, 1)
    whole = made(Rollout(network, policy, FEW))
    torch.testing.assert_close(whole, made(Rollout(network, policy, FEW, memory=Uncached)), rtol=0, atol=1e-5)
    if type(positions) is not Rope:
        assert not torch.allclose(whole, made(Rollout(network, policy, FEW, positions=Rope())), atol=1e-4)
    run = Rollout(network, policy, FEW)(text(), FRAMES)
    before = [next(run).latents for _ in range(5)]
    assert torch.equal(torch.cat([*before, made(Rollout(network, policy, FEW), state=run.state_dict())], 1), whole)


def test_backbone_names_its_positions_and_a_rollout_may_replace_them() -> None:
    network = Attends(NoPositions())
    assert type(Rollout(network, Window(2), FEW).positions) is NoPositions
    assert type(Rollout(Reader(), Window(2), FEW).positions) is NoPositions  # not Wan's
    assert not torch.allclose(
        made(Rollout(network, Window(2), FEW)), made(Rollout(network, Window(2), FEW, positions=Rope()))
    )


def test_policy_that_moves_frames_is_refused_before_a_network_with_fixed_positions_runs() -> None:
    class Never(Attends):
        def forward(self, *arguments: Any) -> Tensor:
            raise AssertionError("it ran")

    network = Never(FixedPositions())
    with pytest.raises(UserError, match=r"RollingSink.*block 4.*FixedPositions cannot move a frame"):
        Rollout(network, RollingSink(2, 1), FEW)(text(), FRAMES)
    made(Rollout(Attends(FixedPositions()), Window(2), FEW))


class Counting(IdentityKVCodec):
    """Makes every frame that it has kept before a little fainter."""

    def __init__(self) -> None:
        self.count = 0

    def encode(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.count += 1
        return k.clone(), v / self.count


class Drifting(Rope):
    """Counts the placements that it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def place(self, spec: ModelSpec, times: Any, step: Step | None = None, plan: ReadPlan | None = None) -> Any:
        self.count += 1
        return super().place(spec, [time + 0.001 * self.count * (time % 2) for time in times], step, plan)


def test_rollouts_share_neither_codecs_nor_positions() -> None:
    rollout = Rollout(Attends(Rope()), Window(2), FEW, positions=Drifting(), kv_codec=Counting())
    alone = made(rollout)
    first, second = rollout(text(), FRAMES), rollout(text(), FRAMES)
    pairs = [(next(first).latents, next(second).latents) for _ in range(FRAMES // BLOCK)]
    for together in zip(*pairs, strict=True):
        assert torch.equal(torch.cat(together, 1), alone)
    assert rollout.kv_codec.count == rollout.positions.count == 0  # type: ignore[attr-defined] # both count


class Averaging(CachePolicy):
    """The last block, and the mean of the two before it as one virtual frame."""

    def plan(self, step: Step) -> ReadPlan:
        start = step.start
        entries = [(frame, frame) for frame in range(max(0, start - 2), start)]
        return ReadPlan.of([(-1, start - 3), *entries] if start >= 6 else entries, start)

    def virtual(self, step: Step) -> list[Virtual]:
        start = step.start
        return (
            [Virtual(-1, (-1, *range(start - 6, start - 2)))]
            if start > 6
            else ([Virtual(-1, tuple(range(start - 6, start - 2)))] if start == 6 else [])
        )

    def live(self, start: int, block: int) -> frozenset[int]:
        return frozenset([-1, *range(max(0, start - 6), start)])

    def visible(self, block: int) -> int:
        return 3


@pytest.mark.parametrize("kv", [True, False])
def test_virtual_frames_survive_interruptions_batches_and_refused_blocks(kv: bool) -> None:
    rollout = Rollout(Attends(Rope()), Averaging(), FEW)
    whole = made(rollout)
    assert not torch.allclose(whole, made(Rollout(Attends(Rope()), Window(1), FEW)), atol=1e-4)
    torch.testing.assert_close(made(rollout, rows=2)[:1], whole, rtol=0, atol=1e-6)
    for cut in range(1, FRAMES // BLOCK):
        run = rollout(text(), FRAMES)
        before = [next(run).latents for _ in range(cut)]
        after = made(rollout, state=run.state_dict(kv), finished=() if kv else before)
        assert torch.equal(torch.cat([*before, after], 1), whole)
    checked = Rollout(Attends(Rope()), Averaging(), FEW, check=BlockCheck("retry"))
    assert torch.equal(made(checked), whole)


def test_memory_tells_its_size() -> None:
    memory = RolloutMemory(SPEC, 4)
    assert memory.nbytes == FullMemory(SPEC, [0]).nbytes == 0
    frame = 2 * 2 * 4 * 12 * 4  # keys and values in two layers of four tokens, float32
    with torch.no_grad():
        for index, entries in enumerate([[], [(0, 0), (1, 1)]]):
            memory.begin(
                Step.of(index, BLOCK, (Phase.COMMIT, Phase.DENOISE)[index]), ReadPlan.of(entries, index * BLOCK)
            )
            for layer in range(2):
                memory.attend(layer, *torch.zeros(3, 1, BLOCK * 4, 2, 6))
            memory.end(frozenset(range(BLOCK)))
    assert memory.nbytes == frame * (BLOCK + 4 + BLOCK)  # raw, and a buffer for a block and four frames
