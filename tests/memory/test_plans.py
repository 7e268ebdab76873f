"""Plans with biases, layers, heads, tokens and branches against one dense softmax over explicit keys in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rollforge.memory import BlendBranches, FixedPositions, NoPositions, RolloutMemory, Rope
from rollforge.memory.combine import Combine
from rollforge.positions.rope import rotate
from rollforge.spec import ModelSpec, Phase, ReadPlan, Segment, Step, Virtual

BLOCK, LAYERS, HEADS = 2, 2, 4
SPEC = ModelSpec(1, 4, 4, (2, 2), LAYERS, HEADS, 12, BLOCK, 8, 8, 4.0)
TOKENS, CPU = SPEC.tokens, torch.device("cpu")
TOP = torch.tensor([[[0, 3], [1, 1]], [[2, 3], [0, 1]]])  # [layers, B, n]


def random(frames: int, heads: int, seed: int) -> Tensor:
    return torch.randn(2, frames * TOKENS, heads, 12, generator=torch.Generator().manual_seed(seed))


def turned(x: Tensor, times: Any, rope: Rope | None) -> Tensor:
    return x.double() if rope is None else rotate(x, rope.rotation(SPEC, list(times), CPU)).double()


class Watched:
    """A memory, and every frame that it was ever given."""

    def __init__(self, visible: int = 8, kv_heads: int = HEADS, rope: Rope | None = None, **parts: Any) -> None:
        self.memory = RolloutMemory(SPEC, visible, rope or Rope(), **parts)
        self.rope, self.kv_heads, self.seed = rope or Rope(), kv_heads, 0
        self.frames: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # (layer, frame) -> raw keys, values

    def commit(self, blocks: int) -> Watched:
        for index in range(blocks):
            self.run(Step.of(index, BLOCK, Phase.COMMIT), ReadPlan((), index * BLOCK))
        return self

    def run(
        self,
        step: Step,
        plan: ReadPlan,
        bias: Tensor | None = None,
        live: Any = range(-9, 99),
        moves: frozenset[int] | None = None,
    ) -> list[Tensor]:
        count, outputs = len(step.frames), []
        self.memory.begin(step, plan)
        for layer in range(LAYERS):
            self.seed += 3
            q = random(count, HEADS, self.seed)
            k, v = (random(count, self.kv_heads, self.seed + n) for n in (1, 2))
            outputs.append(self.memory.attend(layer, q, k, v, bias))
            branches = sorted({0} | {run.branch for run in plan.segments if run.layers is None or layer in run.layers})
            reads = [self.dense(layer, q, k, v, plan, count, branch, bias, step.block) for branch in branches]
            expected = reads[0] if len(reads) == 1 else self.memory.combine(reads, layer, SPEC, self.memory.now)
            torch.testing.assert_close(outputs[-1].double(), expected, rtol=0, atol=2e-5)
            if step.phase.writes:
                for n, frame in enumerate(step.frames):
                    rows = slice(n * TOKENS, (n + 1) * TOKENS)
                    self.frames[layer, frame] = k[:, rows], v[:, rows]
        self.memory.end(frozenset(live), moves)
        return outputs

    def dense(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, plan: ReadPlan, count: int, branch: int,
        bias: Tensor | None, block: int,
    ) -> Tensor:  # fmt: skip
        own = range(plan.query, plan.query + count)
        keys, values = [turned(k, own, self.rope)], [v.double()]
        rows = torch.arange(count * TOKENS)
        number = (rows // TOKENS - count) // block
        within = torch.zeros(2, HEADS, len(rows), len(rows), dtype=torch.float64)
        if plan.causal:
            within = within.masked_fill(number[:, None] < number, -torch.inf)
        added = [within if bias is None else within + bias]
        for run in plan.segments:
            if run.branch != branch or (run.layers is not None and layer not in run.layers):
                continue
            for frame, time in run.entries():
                key, value = self.frames[layer, frame]
                keys.append(turned(key, [time], self.rope))
                values.append(value.double())
                score = torch.full((2, HEADS, TOKENS), -torch.inf, dtype=torch.float64)
                heads = range(HEADS) if run.heads is None else run.heads
                for row in range(2):
                    chosen = range(TOKENS) if run.tokens is None else run.tokens
                    chosen = chosen[layer][row].tolist() if isinstance(chosen, Tensor) else chosen
                    for head in heads:
                        score[row, head, list(chosen)] = run.bias
                added.append(score[:, :, None].expand(-1, -1, count * TOKENS, -1))
        shared = HEADS // self.kv_heads
        every, each = (torch.cat(x, 1).repeat_interleave(shared, 2) for x in (keys, values))
        logits = torch.einsum("bqhd,bkhd->bhqk", turned(q, own, self.rope), every) / 12**0.5 + torch.cat(added, -1)
        return torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), each)


PLANS: dict[str, tuple[Segment, ...]] = {
    "bias": (Segment(0, 0, 2, bias=-1.5), Segment(4, 4, 2, bias=0.75), Segment(3, 3, 1)),
    "layers": (Segment(0, 0, 2, layers=range(1, 2)), Segment(4, 4, 2), Segment(2, 9, 1, layers=range(1))),
    "heads": (Segment(0, 0, 2, heads=(0, 3)), Segment(1, 5, 1, heads=(1,)), Segment(4, 4, 2)),
    "tokens": (Segment(0, 0, 2, tokens=(1, 2)), Segment(4, 4, 2, tokens=range(1)), Segment(3, 3, 1)),
    "tokens of each sample": (Segment(0, 0, 3, tokens=TOP, bias=0.5, heads=(2,)), Segment(4, 4, 2)),
    "branches": (Segment(4, 4, 2), Segment(0, 2, 2, stride=2, branch=1), Segment(4, 4, 1, branch=2)),
    "branch in one layer": (Segment(4, 4, 2), Segment(0, 2, 2, branch=1, layers=range(1, 2), bias=1.0)),
}


@pytest.mark.parametrize("kv_heads", [HEADS, 2, 1])
@pytest.mark.parametrize("plan", PLANS)
def test_every_kind_of_segment_equals_one_dense_softmax(plan: str, kv_heads: int) -> None:
    both = Watched(kv_heads=kv_heads, combine=BlendBranches(0.6)).commit(3)
    with torch.no_grad():
        for segments in (PLANS[plan], (Segment(4, 4, 2),), PLANS[plan], PLANS[plan][::-1]):
            both.run(Step.of(3, BLOCK), ReadPlan(segments, 6))
    both.run(Step.of(3, BLOCK), ReadPlan(PLANS[plan], 6))  # with gradients, which concatenates


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_joint_pass_may_be_causal_and_biased(count: int, gradients: bool) -> None:
    both = Watched().commit(2)
    bias = torch.randn(2, HEADS, count * TOKENS, count * TOKENS)
    segments = Segment(0, 0, 2, bias=0.3), Segment(2, 2, 2)
    with torch.set_grad_enabled(gradients):
        for own in (None, bias, bias[:1, :1], bias[0, 0, :1]):
            both.run(Step(2, 4, BLOCK, count=count), ReadPlan(segments, 4, causal=True), own)
            both.run(Step(2, 4, BLOCK, count=count), ReadPlan((), 4), own)


class LowPass(Combine):
    """Adds the low frequencies over time and space of what a second read differs by, as FreqForcing does."""

    def __call__(self, outputs: Any, layer: int, spec: ModelSpec, now: Any) -> Tensor:
        local, anchored = outputs
        grid = (len(now.frames), *spec.grid)
        spectrum = torch.fft.fftn((anchored - local).unflatten(1, grid), dim=(1, 2, 3))
        axes = torch.meshgrid(*(torch.fft.fftfreq(n) for n in grid), indexing="ij")
        kept = torch.exp(-sum(axis**2 for axis in axes) / (2 * 0.125**2))[None, ..., None, None]
        return local + 0.6 * torch.fft.ifftn(spectrum * kept, dim=(1, 2, 3)).real.flatten(1, 3)


def test_two_branches_are_joined_by_a_low_pass() -> None:
    both = Watched(combine=LowPass()).commit(4)
    (out, _) = both.run(Step.of(4, BLOCK), ReadPlan((Segment(6, 6, 2), Segment(0, 3, 2, 2, branch=1)), 8))
    plain = Watched().commit(4)
    (local, _) = plain.run(Step.of(4, BLOCK), ReadPlan((Segment(6, 6, 2),), 8))
    assert not torch.allclose(out, local, atol=1e-3)


@pytest.mark.parametrize(
    ("segment", "why"),
    [
        (Segment(0, 0, 1, branch=1), "no part of kind combine"),
        (Segment(0, 0, 1, heads=(4,)), r"heads \[4\]; the backbone has heads 0 to 3"),
        (Segment(0, 0, 1, layers=range(2, 3)), r"layers \[2\]; the backbone has layers 0 to 1"),
        (Segment(0, 0, 1, tokens=(-1,)), r"tokens \[-1\]; the backbone has tokens 0 to 3"),
        (Segment(0, 0, 1, tokens=()), r"tokens \[\]"),
        (Segment(0, 0, 1, tokens=torch.zeros(1, 2, 1, dtype=torch.long)), r"expected \[layers, B, n\]"),
        (Segment(0, 0, 1, bias=float("nan")), "finite bias"),
        (Segment(0, 0, 1, layers=range(1)), None),
    ],
)
def test_segment_that_does_not_fit_is_refused(segment: Segment, why: str | None) -> None:
    memory = Watched().commit(1).memory
    if why is None:
        memory.begin(Step.of(1, BLOCK), ReadPlan((segment,), 2))
        return
    with pytest.raises(ValueError, match=why):
        memory.begin(Step.of(1, BLOCK), ReadPlan((segment,), 2))


@torch.no_grad()
def test_frame_that_does_not_move_is_read_again_after_a_pause_without_raw_keys() -> None:
    """Commit passes read other frames than denoising ones, more than fit into the slots together."""
    both, far, near = Watched(visible=3).commit(4), Segment(0, 0, 3), Segment(4, 4, 3)
    for index in range(4, 8):
        for run in (far, near, Segment(2, 2, 1), near, far):
            both.run(Step.of(index, BLOCK), ReadPlan((run,), 8), live=range(8), moves=frozenset())
        assert set(both.memory.raw) == {3, 7}  # which no plan has read
        state = both.memory.state_dict()
        both.memory = RolloutMemory(SPEC, 3)
        both.memory.load_state_dict(state, CPU)
    with pytest.raises(ValueError, match=r"frame 0, which is not in the memory \(at time index 1\)"):
        both.memory.begin(Step.of(8, BLOCK), ReadPlan((Segment(0, 1, 1),), 8))


Change = Callable[[Watched], None]


def weighted(both: Watched, frame: int, of: tuple[int, ...], weights: Any) -> None:
    """What a virtual frame should be, by hand."""
    fresh = {}
    for layer in range(LAYERS):
        pairs = [both.frames[layer, source] for source in of]
        share = torch.as_tensor(weights, dtype=torch.float64)
        share = share[layer] if share.dim() == 3 else share
        share = share.expand(2, -1)
        fresh[layer, frame] = tuple(
            sum(share[:, n, None, None, None] * pair[which].double() for n, pair in enumerate(pairs))
            for which in range(2)
        )
    both.frames |= fresh  # type: ignore[arg-type] # two tensors each


@pytest.mark.parametrize(
    "weights",
    [
        (0.999, 0.001),
        torch.tensor([[0.2, 0.8], [1.0, 0.0]]),
        torch.rand(LAYERS, 2, 2, generator=torch.Generator().manual_seed(0)),
    ],
    ids=["numbers", "each sample", "each layer and sample"],
)
@torch.no_grad()
def test_moving_average_of_a_sink_equals_brute_force_over_a_resume(weights: Any) -> None:
    """Sinks -1 and -2 take the frames that leave a window of four in, before each block, and move along with it."""
    both = Watched()
    for index in range(12):
        start = index * BLOCK
        leaving = [start - 6 + n for n in range(BLOCK)]
        if leaving[0] >= 0:
            made = [
                Virtual(-1 - n, (-1 - n if leaving[0] else n + 4, frame), weights) for n, frame in enumerate(leaving)
            ]
            both.memory.make(index, made)
            before = dict(both.frames)
            for each in made:
                weighted(both, each.frame, each.of, weights)
            assert len(both.frames) - len(before) in (0, 2 * LAYERS)
        first = max(0, start - 4)
        sink = [(-1 - n, first - 2 + n) for n in range(BLOCK)] if leaving[0] >= 0 else []
        plan = ReadPlan.of([*sink, *((frame, frame) for frame in range(first, start))], start)
        live = [*range(start - 4, start + 2), -1, -2]
        for phase in (Phase.DENOISE, Phase.DENOISE, Phase.COMMIT):
            both.run(Step.of(index, BLOCK, phase), plan, live=live if phase is Phase.COMMIT else [*live, -1, start - 6])
        if index == 7:
            state, both.memory = both.memory.state_dict(), RolloutMemory(SPEC, 8)
            both.memory.load_state_dict(state, CPU)
    assert {-1, -2} <= set(both.memory.raw)
    both.run(Step.of(12, BLOCK, Phase.COMMIT), ReadPlan((), 24), live=[25])
    assert set(both.memory.raw) == {25}


def test_pooled_and_computed_virtual_frames() -> None:
    def swapped(layer: int, keys: Tensor, values: Tensor, of: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        assert of == (2, 0)
        return values[:, 0] * layer, keys[:, 1]

    both = Watched().commit(2)
    both.memory.make(2, [Virtual(-1, (0, 1, 2), pool="tokens"), Virtual(-2, (2, 0), make=swapped)])
    for layer in range(LAYERS):
        pairs = [both.frames[layer, frame] for frame in (0, 1, 2)]
        k, v = (
            torch.stack(x).mean((0, 2)).expand(TOKENS, -1, -1, -1).transpose(0, 1) for x in zip(*pairs, strict=True)
        )
        both.frames[layer, -1] = k, v
        both.frames[layer, -2] = both.frames[layer, 2][1] * layer, both.frames[layer, 0][0]
    both.run(Step.of(2, BLOCK), ReadPlan.of([(-1, 0), (3, 3), (-2, 1)], 4))


def test_several_frames_are_chosen_at_once_for_each_layer_and_sample() -> None:
    order = torch.tensor([[[2, 0], [1, 1]], [[0, 1], [2, 1]]])  # [layers, B, 2] of the frames 1, 4 and 5

    def chosen(layer: int, keys: Tensor, values: Tensor, of: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        rows = torch.arange(2)[:, None]
        return keys[rows, order[layer]], values[rows, order[layer]]

    both, of = Watched().commit(3), (1, 4, 5)
    both.memory.make(3, [Virtual(-2, of, make=chosen, count=2)])
    for layer, n, sample in [(a, b, c) for a in range(LAYERS) for b in range(2) for c in range(2)]:
        pair = both.frames[layer, of[order[layer, sample, n]]]
        held = both.frames.setdefault((layer, n - 2), (torch.zeros_like(pair[0]), torch.zeros_like(pair[1])))
        for mine, source in zip(held, pair, strict=True):
            mine[sample] = source[sample]
    both.run(Step.of(3, BLOCK), ReadPlan.of([(-1, 0), (4, 4), (-2, 1)], 6))
    with pytest.raises(ValueError, match=r"returned keys and values of shape .*; expected \[2, 3, 4, 4, 12\]"):
        both.memory.make(4, [Virtual(-3, of, make=chosen, count=3)])


def test_rotated_virtual_frame_keeps_the_time_of_its_birth() -> None:
    both = Watched().commit(3)
    both.memory.make(3, [Virtual(-1, (2, 5), (0.5, 0.5), rotated=True)])
    both.memory.make(4, [Virtual(-2, (-1, 3), (0.5, 0.5), rotated=True)])
    step, plan = Step.of(4, BLOCK), ReadPlan.of([(-2, 77)], 8)
    q, k, v = (random(BLOCK, HEADS, n) for n in (50, 51, 52))
    both.memory.begin(step, plan)
    for layer in range(LAYERS):
        births = [turned(both.frames[layer, frame][0], [frame], both.rope) for frame in (2, 5, 3)]
        values = [both.frames[layer, frame][1] for frame in (2, 5, 3)]
        key, value = (0.25 * x[0] + 0.25 * x[1] + 0.5 * x[2] for x in (births, values))
        keys = torch.cat([turned(k, (8, 9), both.rope), key], 1)
        logits = torch.einsum("bqhd,bkhd->bhqk", turned(q, (8, 9), both.rope), keys) / 12**0.5
        expected = torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), torch.cat([v, value], 1).double())
        torch.testing.assert_close(both.memory.attend(layer, q, k, v).double(), expected, rtol=0, atol=2e-5)
    both.memory.end(frozenset(range(-9, 9)))
    with pytest.raises(ValueError, match="keys are rotated; it must be rotated too"):
        both.memory.make(5, [Virtual(-3, (-1,))])
    with pytest.raises(ValueError, match=r"made from frame 40.*live\(\) and moves\(\)"):
        both.memory.make(5, [Virtual(-3, (40,))])


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [HEADS, 2])
def test_virtual_frame_of_single_tokens_turns_each_at_its_own_place(kv_heads: int) -> None:
    both = Watched(kv_heads=kv_heads).commit(3)
    chance = torch.Generator().manual_seed(3)
    first, second = (torch.randint(n * TOKENS, (LAYERS, 2, TOKENS), generator=chance) for n in (3, 2))
    both.memory.make(3, [Virtual(-1, (0, 2, 5), tokens=first)])
    both.memory.make(4, [Virtual(-2, (-1, 3), tokens=second)])
    state, both.memory = both.memory.state_dict(), RolloutMemory(SPEC, 8)
    both.memory.load_state_dict(state, CPU)

    def picked(index: Tensor, *sources: Tensor) -> Tensor:
        return torch.stack([torch.cat(sources, 1)[row, index[row]] for row in range(2)])

    def read(layer: int, which: int, time: int | None) -> tuple[Tensor, Tensor]:
        """Both virtual frames: which of keys and values, turned at a time."""
        raw = [both.frames[layer, frame][which] for frame in (0, 2, 5, 3)]
        *three, last = (x.double() if time is None else turned(x, [time], both.rope) for x in raw)
        made = picked(first[layer], *three)
        return made, picked(second[layer], made, last)

    step, q, k, v = Step.of(4, BLOCK), *(random(BLOCK, heads, 60) for heads in (HEADS, kv_heads, kv_heads))
    both.memory.begin(step, ReadPlan.of([(-1, 2), (-2, 5)], 8))
    for layer in range(LAYERS):
        (one, _), (_, two), values = (read(layer, *how) for how in ((0, 2), (0, 5), (1, None)))
        every, each = torch.cat([turned(k, (8, 9), both.rope), one, two], 1), torch.cat([v.double(), *values], 1)
        every, each = (x.repeat_interleave(HEADS // kv_heads, 2) for x in (every, each))
        logits = torch.einsum("bqhd,bkhd->bhqk", turned(q, (8, 9), both.rope), every) / 12**0.5
        expected = torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), each)
        torch.testing.assert_close(both.memory.attend(layer, q, k, v).double(), expected, rtol=0, atol=2e-5)
    both.memory.end(frozenset(range(-2, 9)), frozenset())
    with pytest.raises(ValueError, match=r"token indices of shape \[2, 3\] in each layer; expected \[2, 4\]"):
        both.memory.make(5, [Virtual(-3, (4, 5), tokens=first[:, :, :3])])


@pytest.mark.parametrize(
    ("depth", "expected"), [(30, range(20, 30)), (6, range(4, 6)), (2, range(1, 2)), (1, range(1))]
)
def test_shares_of_the_depth_become_layers(depth: int, expected: range) -> None:
    plan = ReadPlan((Segment(0, 0, 2, layers=(2 / 3, 1.0)), Segment(2, 2, 1)), 3).of_depth(depth)
    assert [run.layers for run in plan.segments] == [expected, None]


def test_slow_average_does_not_stand_still_in_half_precision() -> None:
    memory = RolloutMemory(SPEC, 4, NoPositions())
    step = Step.of(0, BLOCK, Phase.COMMIT)
    memory.begin(step, ReadPlan((), 0))
    ones = torch.ones(1, BLOCK * TOKENS, HEADS, 12, dtype=torch.bfloat16)
    for layer in range(LAYERS):
        memory.attend(layer, ones, torch.cat([ones[:, :TOKENS], 3 * ones[:, :TOKENS]], 1), ones)
    memory.end(frozenset(range(-9, 9)))
    memory.make(1, [Virtual(-1, (0,))])
    for block in range(2, 202):
        memory.make(block, [Virtual(-1, (-1, 1), (0.999, 0.001))])
    assert memory.raw[-1][0][0].mean().item() == pytest.approx(3 - 2 * 0.999**200, rel=1e-3)
    memory.make(202, [Virtual(-2, (0, 1), make=lambda layer, k, v, of: (k[:, 1], v[:, 0]))])
    assert {kept.dtype for kept in memory.raw[-2][0]} == {torch.bfloat16}  # a choice is as its sources are


@pytest.mark.parametrize(
    "wrong", [{"frame": 0, "of": (1,)}, {"frame": -1, "of": ()}, {"frame": -1, "of": (1, 2), "weights": (1.0,)},
              {"frame": -1, "of": (1,), "weights": torch.ones(1, 1, 1, 1)},
              {"frame": -1, "of": (1,), "weights": (1.0,), "make": lambda *x: x},
              {"frame": -1, "of": (1,), "tokens": TOP, "pool": "tokens"},
              {"frame": -1, "of": (1,), "make": lambda *x: x, "count": 2}, {"frame": -2, "of": (1,), "count": 2}],
)  # fmt: skip
def test_virtual_frame_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="virtual frame"):
        Virtual(**wrong)


def test_fixed_positions_refuse_plans_that_move_a_frame() -> None:
    memory = RolloutMemory(SPEC, 4, FixedPositions())
    memory.begin(Step.of(2, BLOCK), ReadPlan((), 4))
    for plan in (ReadPlan((), 5), ReadPlan.of([(0, 1)], 4)):
        with pytest.raises(ValueError, match="FixedPositions cannot move a frame"):
            memory.begin(Step.of(2, BLOCK), plan)
    assert RolloutMemory(SPEC, 4, NoPositions()).begin(Step.of(2, BLOCK), ReadPlan((), 5)) is None


@torch.no_grad()
def test_state_of_version_0_1_is_restored() -> None:
    both, plan = Watched().commit(3), ReadPlan.of([(0, 0), (4, 4), (1, 1)], 6)
    both.run(Step.of(3, BLOCK), plan, live=range(6), moves=frozenset([0]))
    state = both.memory.state_dict()
    held = {layer: {(frame, time): (k, v) for frame, time, k, v in pieces} for layer, pieces in state["held"].items()}
    slots = state["slots"][0]
    bare = [n for n, entry in enumerate(slots) if entry in held[0]]
    assert [slots[n] for n in bare] == [(4, 4), (1, 1)]
    old = {"raw": state["raw"], "slots": slots, "bare": bare, "frequencies": None}
    old["held"] = {layer: [pieces[slots[n]] for n in bare] for layer, pieces in held.items()}
    both.memory = RolloutMemory(SPEC, 8)
    both.memory.load_state_dict(old, CPU)
    both.run(Step.of(3, BLOCK), plan)
