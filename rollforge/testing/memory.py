"""The check of memories of a rollout."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rollforge.policies import LongLive, RollingSink, SlidingIndices, Window
from rollforge.positions.rope import Rope, rotate
from rollforge.spec import Phase, ReadPlan, Segment, Step, Virtual
from rollforge.testing.rules import fail, keeping, same
from rollforge.testing.tiny import TOLERANCE, network

Make = Callable[..., Any]
"""Builds a memory from ``(spec, visible, positions)``."""
BLOCKS = 10


@dataclass(frozen=True)
class _Case:
    """What a memory is driven with: a policy, keys of so many heads, and a bias of the pass."""

    rule: str
    policy: Any
    kv_heads: int | None = None
    biased: bool = False


class _Biased(Window):
    """Reads every block with a bias of its own."""

    def plan(self, step: Step) -> ReadPlan:
        plan = super().plan(step)
        single = (Segment(frame, time, 1, bias=0.5 - 0.4 * n) for n, (frame, time) in enumerate(plan.entries()))
        return ReadPlan(tuple(single), plan.query)


class _Layered(Window):
    """The first layer reads the last block, and the others read two."""

    def plan(self, step: Step) -> ReadPlan:
        plan = super().plan(step)
        old, new = plan.entries()[: -step.block], plan.entries()[-step.block :]
        segments = [Segment(frame, time, 1, layers=range(1, 2)) for frame, time in old]
        return ReadPlan((*segments, *ReadPlan.of(new, plan.query).segments), plan.query)


class _Mixed(Window):
    """Reads a mean of the first two frames of its window too, at the time index before the window."""

    def virtual(self, step: Step) -> tuple[Virtual, ...]:
        gone = step.start - self.context_blocks * step.block
        return (Virtual(-1, (gone, gone + 1), weights=(0.25, 0.75)),) if gone >= 0 else ()

    def live(self, start: int, block: int) -> frozenset[int]:
        made = {-1} if start >= self.context_blocks * block else set()
        return super().live(start, block) | made

    moves = live

    def plan(self, step: Step) -> ReadPlan:
        first = max(0, step.start - self.context_blocks * step.block)
        mean = [(-1, first - 1)] if self.virtual(step) else []
        return ReadPlan.of([*mean, *((frame, frame) for frame in range(first, step.start))], step.start)

    def visible(self, block: int) -> int:
        return super().visible(block) + 1


CASES = (
    _Case("memory-attend", Window(2)), _Case("memory-attend", SlidingIndices(3, 1)),
    _Case("memory-attend", RollingSink(3, 2)), _Case("memory-attend", LongLive(3, 1)),
    _Case("memory-bias", _Biased(2), biased=True), _Case("memory-layers", _Layered(2)),
    _Case("memory-groups", RollingSink(3, 2), kv_heads=1), _Case("memory-virtual", _Mixed(2)),
)  # fmt: skip


def check_memory(make: Make, *, without: Collection[str] = (), tolerance: float = TOLERANCE) -> None:
    """Checks a memory of a rollout against attention that keeps every frame and computes each pass from nothing.

    Args:
        make: its class, or what builds it from a spec, the most frames that a plan reads, and positions.
        without: what it does not do, of ``bias``, ``layers``, ``groups`` (fewer key heads) and ``virtual`` (frames).
        tolerance: how far the results may differ, relative to the largest value.

    Raises:
        CheckFailed: with the rule, the block and the values.
    """
    for case in CASES:
        ability = case.rule.removeprefix("memory-")
        for block in () if ability in without else (3, 1) if ability == "attend" else (3,):
            _Checked(make, case, block, tolerance).follow()
    spec = network().spec
    for plan, why in (
        (ReadPlan.of([(5, 5)], 6), "frame 5, which was never written"),
        (ReadPlan.of([(n % 3, n) for n in range(7)], 9), "7 frames where 6 are the most"),
    ):
        memory = make(spec, 6, Rope())
        try:
            memory.begin(Step.of(2, 3), plan)
        except ValueError:
            continue
        fail("memory-missing", memory, f"It begins a pass that reads {why}.")


class _Checked:
    def __init__(self, make: Make, case: _Case, block: int, tolerance: float) -> None:
        self.make, self.case, self.policy, self.block, self.tolerance = make, case, case.policy, block, tolerance
        self.spec, self.rope = replace(network(block).spec, layers=2, kv_heads=case.kv_heads), Rope()
        self.raw: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self.generator = torch.Generator().manual_seed(5)
        length = block * self.spec.tokens
        self.bias = torch.randn(self.spec.heads, length, length, generator=self.generator) if case.biased else None

    def follow(self) -> None:
        memory = self._fresh()
        for index in range(BLOCKS):
            at = f"At block {index} of {self.block} under {type(self.policy).__name__}"
            self._make(memory, Step.of(index, self.block), at)
            passes = [Step.of(index, self.block, Phase.DENOISE, n) for n in (0, 1)]
            for step in (*passes, Step.of(index, self.block, Phase.COMMIT, 2)):
                copy = self._fresh()
                with keeping("memory-state", memory, at):
                    copy.load_state_dict(memory.state_dict(), torch.device("cpu"))
                drawn = [self._draw() for _ in range(self.spec.layers)]
                expected = [self._expected(layer, step, *each) for layer, each in enumerate(drawn)]
                for rule, each in ((self.case.rule, memory), ("memory-state", copy)):
                    for layer, found in enumerate(self._run(rule, each, step, drawn)):
                        same(
                            rule,
                            memory,
                            f"{at} ({step.phase.value}), layer {layer}",
                            found,
                            expected[layer],
                            self.tolerance,
                        )
                if step.phase is Phase.COMMIT:
                    self._keep(step, drawn)

    def _fresh(self) -> Any:
        return self.make(self.spec, self.policy.visible(self.block), self.rope)

    def _draw(self) -> tuple[Tensor, Tensor, Tensor]:
        shape = 2, self.block * self.spec.tokens
        q = torch.randn(*shape, self.spec.heads, self.spec.head_dim, generator=self.generator)
        k, v = torch.randn(2, *shape, *self.spec.kv_shape(0), generator=self.generator)
        return q, k, v

    def _make(self, memory: Any, step: Step, at: str) -> None:
        """Makes the virtual frames of a block, in the memory and next to it."""
        if not (virtual := self.policy.virtual(step)):
            return
        with keeping(self.case.rule, memory, at):
            memory.make(step.index, virtual)
        for each in virtual:
            for layer in range(self.spec.layers):
                sources = [torch.stack(self.raw[frame, layer]) for frame in each.of]
                k, v = sum(weight * source for weight, source in zip(each.weights, sources, strict=True))
                self.raw[each.frame, layer] = k, v

    def _run(self, rule: str, memory: Any, step: Step, drawn: list[tuple[Tensor, Tensor, Tensor]]) -> list[Tensor]:
        reached = step.start + (self.block if step.writes else 0)
        with keeping(rule, memory, f"At block {step.index} ({step.phase.value})"), torch.no_grad():
            memory.begin(step, self.policy.plan(step))
            biased = () if self.bias is None else (self.bias,)
            found = [memory.attend(layer, *each, *biased).clone() for layer, each in enumerate(drawn)]
            memory.end(self.policy.live(reached, self.block))
        return found

    def _expected(self, layer: int, step: Step, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        plan = self.policy.plan(step)
        runs = [run for run in plan.segments if not isinstance(run.layers, range) or layer in run.layers]
        entries = [(*pair, run.bias) for run in runs for pair in run.entries()]
        times = [time for _, time, _ in entries] + [plan.query + n for n in range(self.block)]
        seen = [self.raw[content, layer] for content, *_ in entries]
        keys = torch.cat([*(each[0] for each in seen), k], dim=1)
        values = torch.cat([*(each[1] for each in seen), v], dim=1)
        device = q.device
        q = rotate(q, self.rope.rotation(self.spec, times[-self.block :], device))
        keys = rotate(keys, self.rope.rotation(self.spec, times, device))
        shared = self.spec.heads // keys.shape[2]
        keys, values = (each.repeat_interleave(shared, dim=2) for each in (keys, values))
        q, keys, values = (each.transpose(1, 2) for each in (q, keys, values))
        own = torch.zeros(self.spec.heads, q.shape[2], q.shape[2]) if self.bias is None else self.bias
        cached = torch.tensor([bias for *_, bias in entries]).repeat_interleave(self.spec.tokens)
        bias = torch.cat([cached.expand(*own.shape[:2], -1), own], dim=-1)
        return scaled_dot_product_attention(q, keys, values, bias).transpose(1, 2)

    def _keep(self, step: Step, drawn: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        for layer, (_, k, v) in enumerate(drawn):
            pieces = zip(step.frames, k.split(self.spec.tokens, 1), v.split(self.spec.tokens, 1), strict=True)
            self.raw |= {(frame, layer): (key, value) for frame, key, value in pieces}
