"""What banks and memories hold, before every block, against plain loops over all that was ever committed."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from rollforge_memory import MemFlow, MemRoPE, TetherCache
from torch import Tensor

from rollforge.memory import RolloutMemory, Rope
from rollforge.policies import CachePolicy
from rollforge.positions.rope import rotate
from rollforge.spec import Phase, ReadPlan, Step
from rollforge.testing.tiny import Rolls, condition

LAYERS, ROWS, CPU = 2, 2, torch.device("cpu")
Frame = tuple[Tensor, Tensor]
"""Keys and values, ``[tokens, heads, head_dim]``."""


class Watched(RolloutMemory):
    """Notes queries, keys and values of all commits, and compares its virtual frames before each block."""

    def __init__(self, *arguments: Any, expected: Callable[..., dict[int, Frame]]) -> None:
        super().__init__(*arguments)
        self.expected, self.last, self.compared = expected, 0, 0
        self.frames: dict[tuple[int, int, int], Frame] = {}  # by layer, sample and number, as committed
        self.queries: dict[tuple[int, int], Tensor] = {}  # by layer and sample, of the last commit
        self.texts: dict[tuple[int, int], Tensor] = {}

    def begin(self, step: Step, plan: ReadPlan) -> None:
        if step.index > self.last:
            self.last = step.index
            for layer, row in [(layer, row) for layer in range(LAYERS) for row in range(ROWS)]:
                for number, frame in self.expected(self, step, layer, row).items():
                    for ours, theirs in zip(self.raw[number][layer], frame, strict=True):
                        torch.testing.assert_close(ours[row], theirs, rtol=0, atol=1e-5)
                        self.compared += 1
        super().begin(step, plan)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.now.phase is Phase.COMMIT:
            for row in range(ROWS):
                self.queries[layer, row] = q[row].clone()
                pairs = (x[row].clone().split(self.spec.tokens) for x in (k, v))
                for number, *pair in zip(self.now.frames, *pairs, strict=True):
                    self.frames[layer, row, number] = tuple(pair)  # type: ignore[assignment] # there are two
        return super().attend(layer, q, k, v, bias)

    def cross(self, layer: int, key: str, project: Any) -> tuple[Tensor, Tensor]:
        k, v = super().cross(layer, key, project)
        if self.now.phase is Phase.COMMIT:
            self.texts |= {(layer, row): k[row] for row in range(ROWS)}
        return k, v


def check(policy: CachePolicy, expected: Any, block: int = 3, blocks: int = 16, **options: Any) -> Watched:
    rolls = Rolls(policy, block=block, blocks=blocks, layers=LAYERS, memory=partial(Watched, expected=expected))
    run = rolls.start(options.get("text", condition(ROWS)), range(ROWS), given=options.get("given"))
    assert len(list(run)) == blocks
    memory: Watched = run.passes.memories["prompt"]
    assert memory.compared > 8 * LAYERS * ROWS
    return memory


class Bank:
    """MemFlow's, as the rules of the released program say it; scores are means over all tokens and heads."""

    def __init__(self, bank: int, interval: int, interactive: bool) -> None:
        self.size, self.interval, self.interactive = bank, interval, interactive
        self.slots: dict[tuple[int, int], list[Frame]] = {}
        self.candidates: dict[tuple[int, int], Frame] = {}
        self.kept: set[tuple[int, ...]] = set()

    def __call__(self, memory: Watched, step: Step, layer: int, row: int) -> dict[int, Frame]:
        i, slots = step.index - 1, self.slots.setdefault((layer, row), [])
        recorded = i - i % self.interval if self.interactive else i
        if recorded == i:
            number = i * step.block
            key, value = memory.frames[layer, row, number]
            turned = rotate(key[None], Rope().rotation(memory.spec, [number], CPU))[0]
            self.candidates[layer, row] = turned, value
        candidate, e = self.candidates[layer, row], recorded // self.interval + 1
        if e <= self.size:
            slots[e - 1 :] = [candidate]
        else:
            text = memory.texts[layer, row]
            scores = [torch.einsum("lhd,thd->lth", text, key).mean().item() for key, _ in slots]
            best = sorted(range(self.size), key=lambda n: -scores[n])[: self.size - 1]
            self.kept.add(tuple(best))
            slots[:] = [*(slots[n] for n in best), candidate]
        return {n - self.size: frame for n, frame in enumerate(slots)}


@pytest.mark.parametrize(
    ("bank", "interval", "interactive"), [(3, 1, False), (2, 2, False), (1, 1, False), (3, 2, True), (2, 3, True)]
)
def test_the_bank_equals_loops_over_all_tokens(bank: int, interval: int, interactive: bool) -> None:
    text = {0: condition(ROWS), 12: condition(ROWS, "second"), 36: condition(ROWS, "third")}
    expected = Bank(bank, interval, interactive)
    check(MemFlow(9, 3, bank, interval, interactive), expected, text=text)
    assert len(expected.kept) > 1 or bank == 1


def test_the_averages_equal_a_running_mean_of_what_has_left() -> None:
    memories: dict[tuple[int, int, int], Frame] = {}

    def expected(memory: Watched, step: Step, layer: int, row: int) -> dict[int, Frame]:
        if step.index < 3:  # seven frames of context are not full
            return {}
        leaving = range(max(3, step.start - 7), step.start - 4)
        for number, rate in ((-1, 0.2), (-2, 0.6)):
            frames = [memory.frames[layer, row, frame] for frame in leaving]
            mean = [torch.stack(each).mean((0, 1)).expand_as(each[0]) for each in zip(*frames, strict=True)]
            before = memories.get((layer, row, number), mean)
            made = [torch.lerp(old, new, rate) for old, new in zip(before, mean, strict=True)]
            memories[layer, row, number] = made[0], made[1]
        return {number: memories[layer, row, number] for number in (-1, -2)}

    check(MemRoPE(10, 1, 0.2, 0.6), expected)


class Tether:
    """TetherCache's memory of one layer and sample, one candidate after the other."""

    def __init__(self, sink: int, size: int, recent: int) -> None:
        self.sink, self.size, self.recent = sink, size, recent
        self.memory: dict[tuple[int, int], dict[int, Frame]] = {}
        self.left: dict[tuple[int, int], int] = {}
        self.chosen: dict[tuple[int, int], list[tuple[int, ...]]] = {}

    def __call__(self, memory: Watched, step: Step, layer: int, row: int) -> dict[int, Frame]:
        held, at = self.memory.setdefault((layer, row), {}), (layer, row)
        reference = [memory.frames[layer, row, n] for n in range(self.sink)] + [*held.values()]
        first = self.left.get(at, self.sink)
        leaving = range(first, max(first, step.start - self.recent))
        self.left[at] = leaving.stop
        if not leaving:
            return {}
        fresh = {number: memory.frames[layer, row, number] for number in leaving}
        candidates = held | fresh
        mass = self.mass(memory.queries[at], candidates)
        kept = self.choice(mass)
        moved = {
            number: tuple(map(self.moved, pair, zip(*reference, strict=True))) if reference else pair
            for number, pair in fresh.items()
        }
        self.memory[at] = {number: (held | moved)[number] for number in sorted(kept)}  # type: ignore[dict-item]
        self.chosen.setdefault(at, []).append(tuple(sorted(kept)))
        return {n - self.size: frame for n, frame in enumerate(self.memory[at].values())}

    def mass(self, query: Tensor, candidates: dict[int, Frame]) -> dict[int, float]:
        heads = []
        for head in range(query.shape[1]):
            logits = [query[:, head].mean(0) @ key[:, head].mean(0) for key, _ in candidates.values()]
            heads.append((torch.stack(logits) / math.sqrt(query.shape[2])).softmax(0))
        return dict(zip(candidates, torch.stack(heads).mean(0).tolist(), strict=True))

    def choice(self, mass: dict[int, float]) -> list[int]:
        scale, kept = max(1.0, (max(mass) - min(mass)) / 2), list[int]()
        while len(kept) < min(self.size, len(mass)):
            scores = {
                i: mass[i] + 0.35 * (1 - max((math.exp(-abs(i - j) / scale) * mass[j] for j in kept), default=0.0))
                for i in mass
                if i not in kept
            }
            kept.append(max(scores, key=lambda i: scores[i]))
        return kept

    def moved(self, x: Tensor, reference: tuple[Tensor, ...]) -> Tensor:
        every = torch.cat(reference)
        normal = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
        return 0.65 * x + 0.35 * (normal * (every.var(0, correction=0) + 1e-5).sqrt() + every.mean(0))


@pytest.mark.parametrize(("sink", "size", "recent", "block"), [(3, 5, 4, 3), (1, 3, 2, 3), (0, 4, 3, 1)])
def test_the_scored_memory_equals_a_choice_one_by_one(sink: int, size: int, recent: int, block: int) -> None:
    expected = Tether(sink, size, recent)
    check(TetherCache(sink, size, recent), expected, block, 20 if block == 1 else 12)
    assert len({tuple(rows) for rows in expected.chosen.values()}) > 1, "all layers and samples chose alike"
