"""The check of memories of a rollout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rollforge.policies import LongLive, RollingSink, SlidingIndices, Window
from rollforge.positions.rope import Rope, rotate
from rollforge.spec import Phase, ReadPlan, Step
from rollforge.testing.rules import fail, keeping, same
from rollforge.testing.tiny import TOLERANCE, network

Make = Callable[..., Any]
"""Builds a memory from ``(spec, visible, positions)``."""
BLOCKS = 14


def check_memory(make: Make, *, tolerance: float = TOLERANCE) -> None:
    """Checks a memory of a rollout against attention that keeps every frame and computes each pass from nothing.

    Args:
        make: its class, or what builds it from a spec, the most frames that a plan reads, and positions.
        tolerance: how far the results may differ, relative to the largest value.

    Raises:
        CheckFailed: with the rule, the block and the values.
    """
    for policy in (Window(2), SlidingIndices(3, 1), RollingSink(3, 2), LongLive(3, 1)):
        for block in (3, 1):
            _Checked(make, policy, block, tolerance).follow()
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
    def __init__(self, make: Make, policy: Any, block: int, tolerance: float) -> None:
        self.make, self.policy, self.block, self.tolerance = make, policy, block, tolerance
        self.spec, self.rope = replace(network(block).spec, layers=2), Rope()
        self.raw: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self.generator = torch.Generator().manual_seed(5)

    def follow(self) -> None:
        memory = self._fresh()
        for index in range(BLOCKS):
            at = f"At block {index} of {self.block} under {type(self.policy).__name__}"
            passes = [Step.of(index, self.block, Phase.DENOISE, n) for n in (0, 1)]
            for step in (*passes, Step.of(index, self.block, Phase.COMMIT, 2)):
                copy = self._fresh()
                with keeping("memory-state", memory, at):
                    copy.load_state_dict(memory.state_dict(), torch.device("cpu"))
                drawn = [self._draw() for _ in range(self.spec.layers)]
                expected = [self._expected(layer, step, *each) for layer, each in enumerate(drawn)]
                for rule, each in (("memory-attend", memory), ("memory-state", copy)):
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
        shape = 2, self.block * self.spec.tokens, self.spec.heads, self.spec.head_dim
        q, k, v = torch.randn(3, *shape, generator=self.generator)
        return q, k, v

    def _run(self, rule: str, memory: Any, step: Step, drawn: list[tuple[Tensor, Tensor, Tensor]]) -> list[Tensor]:
        reached = step.start + (self.block if step.phase.writes else 0)
        with keeping(rule, memory, f"At block {step.index} ({step.phase.value})"), torch.no_grad():
            memory.begin(step, self.policy.plan(step))
            found = [memory.attend(layer, *each).clone() for layer, each in enumerate(drawn)]
            memory.end(self.policy.live(reached, self.block))
        return found

    def _expected(self, layer: int, step: Step, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        plan = self.policy.plan(step)
        times = [time for _, time in plan.entries()] + [plan.query + n for n in range(self.block)]
        seen = [self.raw[content, layer] for content, _ in plan.entries()]
        keys = torch.cat([*(each[0] for each in seen), k], dim=1)
        values = torch.cat([*(each[1] for each in seen), v], dim=1)
        device = q.device
        q = rotate(q, self.rope.rotation(self.spec, times[-self.block :], device))
        keys = rotate(keys, self.rope.rotation(self.spec, times, device))
        q, keys, values = (each.transpose(1, 2) for each in (q, keys, values))
        return scaled_dot_product_attention(q, keys, values).transpose(1, 2)

    def _keep(self, step: Step, drawn: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        for layer, (_, k, v) in enumerate(drawn):
            pieces = zip(step.frames, k.split(self.spec.tokens, 1), v.split(self.spec.tokens, 1), strict=True)
            self.raw |= {(frame, layer): (key, value) for frame, key, value in pieces}
