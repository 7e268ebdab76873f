"""What memories and plans offer, by small components that need it, against brute force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from brute import BruteMemory, check_passes, check_resume, check_rollout, stacked
from torch import Tensor
from toy_backbone import BLOCK, TOKENS, Toy, condition

from rollforge.errors import UserError
from rollforge.memory import Combine, Now
from rollforge.policies import CachePolicy, RollingSink, SlidingIndices, Window
from rollforge.positions import FixedPositions, Positions
from rollforge.rollout import Rollout
from rollforge.samplers import Euler, Finished, Job, Pass, Passes
from rollforge.spec import ModelSpec, ReadPlan, Segment, Step, Virtual
from rollforge.state import State

FRAMES, RATES = 10, (1.0, 0.3)
SAMPLER = Euler(steps=2, shift=1.0, context_noise=20.0)


class Runs(CachePolicy):
    """The last four frames, in runs with properties of their own."""

    def __init__(self, **properties: Any) -> None:
        self.properties = properties

    def state_dict(self) -> State:
        return {}  # it learns nothing on the way

    def plan(self, step: Step) -> ReadPlan:
        seen = sorted(self.live(step.start, step.block))
        far, near = seen[: len(seen) // 2], seen[len(seen) // 2 :]
        runs = [Segment(n, n, 1, **self.properties) for n in far] + [Segment(n, n, 1) for n in near]
        return ReadPlan(tuple(runs), step.start)

    def live(self, start: int, block: int) -> frozenset[int]:
        return frozenset(range(max(0, start - 4), start))

    def visible(self, block: int) -> int:
        return 4


class SlowSink(CachePolicy):
    """Two virtual frames that follow what leaves the window, slowly."""

    def plan(self, step: Step) -> ReadPlan:
        recent = range(max(0, step.start - 4), step.start)
        sinks = [Segment(-1 - n, 0, 1) for n in range(2)] if step.start >= 6 else []
        return ReadPlan((*sinks, *(Segment(n, n, 1) for n in recent)), step.start)

    def virtual(self, step: Step) -> list[Virtual]:
        if step.start < 6:
            return []
        old = (-1, -2) if step.start > 6 else (0, 1)
        return [Virtual(-1 - n, (old[n], step.start - 6 + n), (0.75, 0.25)) for n in range(2)]

    def live(self, start: int, block: int) -> frozenset[int]:
        sinks = {-1, -2} if start >= 6 else set()
        return frozenset({*range(max(0, start - 6), start), *sinks})

    def visible(self, block: int) -> int:
        return 6


class Flex(Positions):
    """Rotates more slowly the longer the plan is, and in each layer at a rate of its own."""

    def key(self, spec: ModelSpec, step: Step, plan: ReadPlan) -> int:
        return span(plan)

    def place(
        self, spec: ModelSpec, times: Sequence[float], step: Step | None = None, plan: ReadPlan | None = None
    ) -> list[Tensor]:
        assert plan is not None
        angle = torch.tensor(times).float().repeat_interleave(TOKENS)[:, None, None] / (1 + span(plan))
        return [angle * rate for rate in RATES]

    def turn(self, x: Tensor, placement: Tensor) -> Tensor:
        even, odd = x.chunk(2, dim=-1)
        cos, sin = placement.cos(), placement.sin()
        return torch.cat([even * cos - odd * sin, even * sin + odd * cos], dim=-1)


def span(plan: ReadPlan) -> int:
    """Frames from the first time index of a plan to the pass."""
    return plan.query - min((time for _, time in plan.entries()), default=plan.query)


def flex(layer: int, x: Tensor, times: Sequence[float], now: Now) -> Tensor:
    """The same as complex numbers."""
    assert now.plan is not None
    scale = RATES[layer] / (1 + span(now.plan))
    turns = torch.tensor([scale * time for time in times for _ in range(TOKENS)])[:, None, None]
    turned = torch.complex(*x.chunk(2, dim=-1)) * torch.exp(1j * turns)
    return torch.cat([turned.real, turned.imag], dim=-1)


class Mean(Combine):
    """The mean of all branches."""

    def __call__(self, outputs: Any, layer: int, spec: ModelSpec, now: Now) -> Tensor:
        return torch.stack(list(outputs)).mean(0)


class Joint(Euler):
    """Two blocks at a time, in passes that see both; each is committed by itself."""

    def run(self, job: Job) -> Passes:
        steps = list(job.steps)
        for first, second in zip(steps[::2], steps[1::2], strict=True):
            both = replace(first, count=len(first.frames) + len(second.frames))
            x = torch.cat([job.noise(first, 0), job.noise(second, 0)], dim=1)
            flow = yield Pass(both, x, 1000.0)
            for step, latents in zip((first, second), (x - flow).split(BLOCK, dim=1), strict=True):
                yield Finished(step, latents)
                yield from self.commit(step, latents, job.noise)


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("extra", ["", "bias", "recurrent", "history"])
def test_what_a_backbone_may_ask_of_a_memory(kv_heads: int, extra: str) -> None:
    rollout = Rollout(Toy(kv_heads, extra), Window(2), SAMPLER)
    check_rollout(rollout, condition, BruteMemory(TOKENS, BLOCK), FRAMES)


@pytest.mark.parametrize(
    "properties",
    [
        {"bias": 0.7}, {"layers": range(1)}, {"heads": (1,)}, {"tokens": (0, 3)}, {"bias": -2.0, "heads": (0,)},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_segment_may_say(properties: dict[str, Any]) -> None:
    rollout = Rollout(Toy(), Runs(**properties), SAMPLER)
    check_rollout(rollout, condition, BruteMemory(TOKENS, BLOCK), FRAMES)


def test_each_layer_and_sample_may_have_tokens_of_its_own() -> None:
    chosen = torch.tensor([[[0, 1], [2, 3]], [[1, 3], [0, 2]]])  # [layers, B, n]
    rollout, both = Rollout(Toy(), Runs(tokens=chosen), SAMPLER), stacked([condition(0), condition(1)])
    check_passes(rollout, both, BruteMemory(TOKENS, BLOCK), FRAMES)
    check_resume(rollout, both, FRAMES)


def test_branches_are_joined_by_a_part_of_kind_combine() -> None:
    rollout = Rollout(Toy(), Runs(branch=1), SAMPLER, combine=Mean())
    brute = BruteMemory(TOKENS, BLOCK, combine=lambda outputs: sum(outputs) / len(outputs))
    check_rollout(rollout, condition, brute, FRAMES)


def test_virtual_frames_are_read_like_any_frame() -> None:
    check_rollout(Rollout(Toy(), SlowSink(), SAMPLER), condition, BruteMemory(TOKENS, BLOCK), FRAMES)


@pytest.mark.parametrize("policy", [Window(2), SlidingIndices(2, 1), RollingSink(2, 1)], ids=lambda p: type(p).__name__)
def test_positions_depend_on_the_plan_and_the_layer(policy: CachePolicy) -> None:
    """A plan that grows turns all cached keys again; the policy need not know of it."""
    rollout = Rollout(Toy(positions=Flex()), policy, SAMPLER)
    check_rollout(rollout, condition, BruteMemory(TOKENS, BLOCK, turn=flex), FRAMES)


def test_positions_of_the_network_itself_refuse_a_plan_that_moves_frames() -> None:
    rollout = Rollout(Toy(positions=FixedPositions()), SlidingIndices(2, 1), SAMPLER)
    with pytest.raises(UserError, match=r"SlidingIndices .* at time index .* FixedPositions cannot move a frame"):
        list(rollout(condition(0), FRAMES))
