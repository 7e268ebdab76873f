"""A rollout's memory against brute force: all raw keys the plan names, rotated again in float64, one dense softmax."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakSet

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rollforge.errors import UserError
from rollforge.memory import FullMemory, KVCodec, MaskedMemory, Memory, Now, RolloutMemory, Rope
from rollforge.policies import AttentionSink, CachePolicy, RollingSink, SlidingIndices, Window
from rollforge.spec import ModelSpec, Phase, ReadPlan, Segment, Step

BLOCK, LAYERS, VISIBLE = 2, 2, 6
SPEC = ModelSpec(1, 4, 4, (2, 2), LAYERS, 2, 12, BLOCK, 8, 8, 4.0)
NOTHING = ReadPlan((), 0)


def turned(x: Tensor, times: Sequence[float], speed: float = 1.0) -> Tensor:
    """Rope in float64; ``speed`` multiplies the temporal frequencies."""
    rows, columns = SPEC.grid
    places = torch.tensor([(t, r, c) for t in times for r in range(rows) for c in range(columns)], dtype=torch.float64)
    frequency = torch.tensor([1.0, 0.01], dtype=torch.float64)  # 10000 ** (-2j / 4), the same on each axis
    angle = torch.cat([places[:, :1] * frequency * speed, places[:, 1:2] * frequency, places[:, 2:] * frequency], dim=1)
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)[:, None]).flatten(-2)


class Reference:
    """Every frame ever committed, raw, and attention without a cache."""

    def __init__(self) -> None:
        self.frames: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # (layer, frame) -> keys, values

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, plan: ReadPlan, count: int, speed: float = 1.0
    ) -> Tensor:
        own = range(plan.query, plan.query + count)
        kept = [(*self.frames[layer, content], time) for content, time in plan.entries()]
        keys = torch.cat([*(turned(key, [time], speed) for key, _, time in kept), turned(k, own, speed)], dim=1)
        values = torch.cat([*(value.double() for _, value, _ in kept), v.double()], dim=1)
        scores = torch.einsum("bqhd,bkhd->bhqk", turned(q, own, speed), keys) / SPEC.head_dim**0.5
        return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), values)

    def commit(self, layer: int, frames: range, k: Tensor, v: Tensor) -> None:
        parts = k.split(SPEC.tokens, dim=1), v.split(SPEC.tokens, dim=1)
        self.frames.update({(layer, frame): pair for frame, *pair in zip(frames, *parts, strict=True)})  # type: ignore[misc]


class Both:
    """A memory and its reference, driven by the same passes of random tokens."""

    def __init__(self, visible: int = VISIBLE, rope: Rope | None = None, codec: KVCodec | None = None) -> None:
        self.memory, self.reference = RolloutMemory(SPEC, visible, rope, codec), Reference()
        self.generator = torch.Generator().manual_seed(0)

    def run(
        self,
        step: Step,
        plan: ReadPlan,
        live: Sequence[int] | frozenset[int],
        speed: float = 1.0,
        layers: Sequence[int] = range(LAYERS),
        moves: frozenset[int] | None = None,
    ) -> None:
        count = len(step.frames)
        self.memory.begin(step, plan)
        for layer in layers:
            q, k, v = torch.randn(3, 2, count * SPEC.tokens, SPEC.heads, SPEC.head_dim, generator=self.generator)
            expected = self.reference.attend(layer, q, k, v, plan, count, speed)
            torch.testing.assert_close(self.memory.attend(layer, q, k, v).double(), expected, rtol=0, atol=1e-5)
            if step.phase.writes:
                self.reference.commit(layer, step.frames, k, v)
        self.memory.end(frozenset(live), moves)

    def commit(self, blocks: int) -> None:
        for index in range(blocks):
            plan = ReadPlan((), index * BLOCK)
            self.run(Step.of(index, BLOCK, Phase.COMMIT), plan, range((index + 1) * BLOCK))


times = st.one_of(st.integers(0, 30), st.integers(0, 10**6))


@st.composite
def plans(draw: st.DrawFn, committed: int) -> ReadPlan:
    """Up to VISIBLE frames below ``committed``: runs forwards, backwards, in leaps or standing still, at any time."""
    segments, room = [], VISIBLE
    while committed and room and draw(st.booleans()):
        content, stride = draw(st.integers(0, committed - 1)), draw(st.sampled_from([1, -1, 2, 0]))
        inside = [n for n in range(1, room + 1) if 0 <= content + (n - 1) * stride < committed]
        length = draw(st.sampled_from(inside))
        segments.append(Segment(content, draw(times), length, stride))
        room -= length
    return ReadPlan(tuple(segments), draw(times))


@st.composite
def passes(draw: st.DrawFn) -> list[tuple[Step, ReadPlan]]:
    """Blocks of a rollout: passes that only read under ever other plans, commits, and commits again of old blocks."""
    drawn: list[tuple[Step, ReadPlan]] = []
    for index in range(draw(st.integers(2, 5))):
        phases = draw(st.lists(st.sampled_from([Phase.DENOISE, Phase.RECACHE]), max_size=3))
        for phase in (*phases, Phase.COMMIT):
            old = phase is Phase.RECACHE and index
            block = draw(st.integers(0, index - 1)) if old else index
            written = phase if old or phase is Phase.COMMIT else Phase.DENOISE
            drawn.append((Step.of(block, BLOCK, written), draw(plans(index * BLOCK))))
        if draw(st.booleans()):  # the plan just seen, once more, now that its frames are in place
            drawn.append((Step.of(index + 1, BLOCK), drawn[-1][1]))
    return drawn


@settings(deadline=None, max_examples=40)
@given(passes())
def test_any_plans_in_any_order_equal_brute_force(drawn: list[tuple[Step, ReadPlan]]) -> None:
    both = Both()
    for step, plan in drawn:
        both.run(step, plan, live=range(100))


def test_the_same_frame_may_be_seen_twice() -> None:
    both = Both()
    both.commit(2)
    twice = ReadPlan.of([(1, 4), (1, 4), (1, 9), (0, 4)], query=10)
    for plan in (twice, ReadPlan.of([(1, 4)], 10), twice, ReadPlan.of([(0, 4), (1, 9), (1, 4)], 10)):
        both.run(Step.of(2, BLOCK), plan, range(4))


@pytest.mark.parametrize(
    "policy", [Window(3), AttentionSink(3, 1), SlidingIndices(3, 2), RollingSink(3, 2)], ids=lambda p: type(p).__name__
)
def test_a_long_rollout_of_every_policy_equals_brute_force(policy: CachePolicy) -> None:
    both = Both(policy.visible(BLOCK))
    for index in range(14):
        for phase in (Phase.DENOISE, Phase.DENOISE, Phase.COMMIT):
            step = Step.of(index, BLOCK, phase)
            both.run(step, policy.plan(step), policy.live(step.frames.stop, BLOCK))


SKIPPED = [[(0,), (1,)], [(0,), (0,)], [(1,), (0, 1)], [(0,), (0,), (1,)], [(1,)]]


@pytest.mark.parametrize("passes", SKIPPED, ids=str)
@pytest.mark.parametrize("policy", [Window(3), SlidingIndices(3, 2), RollingSink(3, 2)], ids=lambda p: type(p).__name__)
@torch.no_grad()
def test_passes_that_only_read_may_leave_layers_out(policy: CachePolicy, passes: list[tuple[int, ...]]) -> None:
    both = Both(policy.visible(BLOCK))
    for index in range(14):
        for layers in passes:
            step = Step.of(index, BLOCK)
            live, moves = policy.live(step.start, BLOCK), policy.moves(step.start, BLOCK)
            both.run(step, policy.plan(step), live, layers=layers, moves=moves)
        if index % 3 == 1:  # cut off and resumed between two blocks
            state, both.memory = both.memory.state_dict(), RolloutMemory(SPEC, policy.visible(BLOCK))
            both.memory.load_state_dict(state, torch.device("cpu"))
        step = Step.of(index, BLOCK, Phase.COMMIT)
        end = step.frames.stop
        both.run(step, policy.plan(step), policy.live(end, BLOCK), moves=policy.moves(end, BLOCK))
    assert len(both.memory.raw) <= len(policy.moves(end, BLOCK)) + BLOCK


def test_writing_pass_without_a_layer_is_refused() -> None:
    with pytest.raises(UserError, match=r"left out layer 1 in a pass that writes \(block 0, commit\).*its 2 layers"):
        Both().run(Step.of(0, BLOCK, Phase.COMMIT), NOTHING, [0, 1], layers=[0])


def test_now_describes_the_pass_in_progress_of_each_memory() -> None:
    memory, plan = RolloutMemory(SPEC, VISIBLE), ReadPlan((), 7)
    memory.begin(Step.of(2, BLOCK, Phase.COMMIT, level=3), plan)
    assert memory.now == Now(range(4, 6), range(7, 9), Phase.COMMIT, 3, plan)
    for layer in range(LAYERS):
        memory.attend(layer, *torch.randn(3, 1, BLOCK * SPEC.tokens, 2, 12))
    memory.end(frozenset())
    assert memory.now == Now()
    clips: list[Memory] = [FullMemory(SPEC, (0, 1, 2)), MaskedMemory.diffusion_forcing(SPEC, 3)]
    for each in clips:
        now = each.now
        assert (list(now.frames), list(now.times), now.phase, now.plan) == ([0, 1, 2], [0, 1, 2], Phase.DENOISE, None)


@pytest.mark.parametrize("counts", [(4, 2, 1), (1, 2, 4), (2, 6, 2)])
def test_passes_may_differ_in_length(counts: tuple[int, ...]) -> None:
    both, start = Both(), 0
    full = [(0, time) for time in range(VISIBLE)]
    for count in counts:
        plan = ReadPlan.of(full if start else [], 50)
        both.run(Step(start, start, BLOCK, Phase.DENOISE, count=count), plan, range(100))
        both.run(Step(start, start, BLOCK, Phase.COMMIT, count=count), plan, range(100))
        start += count


def test_a_rope_that_changes_with_the_step_turns_every_key_anew() -> None:
    class Slower(Rope):
        def temporal(self, spec: ModelSpec, step: Step | None = None) -> Tensor:
            assert step is not None
            return super().temporal(spec, step) / (1 + step.index)

    both, plan = Both(rope=Slower()), ReadPlan.of([(0, 0), (1, 1)], 8)
    both.run(Step.of(0, BLOCK, Phase.COMMIT), NOTHING, [0, 1])
    for index in (1, 1, 2, 3, 1):
        both.run(Step.of(index, BLOCK), plan, [0, 1], speed=1 / (1 + index))


def test_what_is_read_is_what_the_codec_gives_back() -> None:
    class Negated(KVCodec):
        def encode(self, k: Tensor, v: Tensor) -> Tensor:
            return torch.stack([-k, v * 2])

        def decode(self, kept: Tensor) -> tuple[Tensor, Tensor]:
            return kept[0], kept[1]

    both = Both(codec=Negated())
    both.commit(1)
    both.reference.frames = {place: (-k, v * 2) for place, (k, v) in both.reference.frames.items()}
    both.run(Step.of(1, BLOCK), ReadPlan.of([(0, 0), (1, 1)], 2), [0, 1])


def test_only_writing_passes_are_kept_and_only_when_they_end() -> None:
    memory, tokens = RolloutMemory(SPEC, VISIBLE), torch.randn(3, 1, BLOCK * SPEC.tokens, 2, 12)
    for phase in Phase:
        step = Step.of(list(Phase).index(phase), BLOCK, phase)
        before = set(memory.raw)
        memory.begin(step, ReadPlan((), step.start))
        for layer in range(LAYERS):
            memory.attend(layer, *tokens)
        assert set(memory.raw) == before
        memory.end(frozenset(range(100)))
        assert set(memory.raw) - before == (set(step.frames) if phase.writes else set())


def test_what_is_not_live_is_forgotten() -> None:
    both = Both()
    both.commit(3)
    assert set(both.memory.raw) == set(range(6))
    both.run(Step.of(3, BLOCK), NOTHING, [])  # a pass that only reads lets nothing go
    assert set(both.memory.raw) == set(range(6))
    both.run(Step.of(3, BLOCK, Phase.COMMIT), NOTHING, [0, 5, 7])
    assert set(both.memory.raw) == {0, 5, 7}
    both.run(Step.of(4, BLOCK), ReadPlan.of([(7, 1), (0, 2), (5, 3)], 4), [])
    with pytest.raises(ValueError, match="The plan of block 4 reads frame 6, which is not in the memory"):
        both.memory.begin(Step.of(4, BLOCK), ReadPlan.of([(7, 1), (6, 2)], 4))


class Kept:
    def __init__(self, k: Tensor, v: Tensor) -> None:
        self.pair = k.clone(), v.clone()


class Counting(KVCodec):
    """Knows how many encoded frames are alive anywhere."""

    def __init__(self) -> None:
        self.alive: WeakSet[Kept] = WeakSet()

    def encode(self, k: Tensor, v: Tensor) -> Kept:
        kept = Kept(k, v)
        self.alive.add(kept)
        return kept

    def decode(self, kept: Kept) -> tuple[Tensor, Tensor]:
        return kept.pair


@pytest.mark.parametrize(
    ("policy", "most"), [(Window(3), 6), (AttentionSink(3, 1), 6), (SlidingIndices(3, 2), 6), (RollingSink(3, 2), 8)]
)
def test_memory_is_flat_in_the_length_of_the_video(policy: CachePolicy, most: int) -> None:
    codec = Counting()
    memory, tokens = RolloutMemory(SPEC, VISIBLE, kv_codec=codec), torch.randn(3, 1, BLOCK * SPEC.tokens, 2, 12)
    counts = []
    for index in range(60):
        step = Step.of(index, BLOCK, Phase.COMMIT)
        memory.begin(step, policy.plan(step))
        for layer in range(LAYERS):
            memory.attend(layer, *tokens)
        memory.end(policy.live(step.frames.stop, BLOCK))
        counts.append(len(codec.alive))
    assert max(counts) == counts[-1] == most * LAYERS


@pytest.mark.parametrize("trained", ["qkv", "q", "k", "v"])  # adapters often train some projections and not others
def test_a_differentiable_rollout_has_the_gradient_of_brute_force(trained: str) -> None:
    memory, reference = RolloutMemory(SPEC, VISIBLE), Reference()
    tokens = torch.randn(3, 3, LAYERS, 2, BLOCK * SPEC.tokens, SPEC.heads, SPEC.head_dim)
    leaves = {name: tokens[n].clone().requires_grad_(name in trained) for n, name in enumerate("qkv")}
    ours, theirs = [], []
    schedule = [[], [(0, 0), (1, 1)], [(1, 7), (0, 3), (3, 4), (1, 8)]]
    for index, entries in enumerate(schedule):
        step, plan = Step.of(index, BLOCK, Phase.COMMIT), ReadPlan.of(entries, 9)
        memory.begin(step, plan)
        for layer in range(LAYERS):
            q, k, v = (leaves[name][index, layer] for name in "qkv")
            ours.append(memory.attend(layer, q, k, v))
            theirs.append(reference.attend(layer, q, k, v, plan, BLOCK))
            reference.commit(layer, step.frames, k, v)
        memory.end(frozenset(range(100)))
    weights = [torch.randn_like(out) for out in ours]
    wanted = [leaves[name] for name in trained]
    gradients = torch.autograd.grad(sum((a * w).sum() for a, w in zip(ours, weights, strict=True)), wanted)
    expected = torch.autograd.grad(sum((a * w).sum() for a, w in zip(theirs, weights, strict=True)), wanted)
    assert all(gradient[0, layer].abs().sum() > 0 for gradient in expected for layer in range(LAYERS) if trained != "q")
    torch.testing.assert_close(gradients, expected, rtol=0, atol=1e-4)


def test_a_plan_beyond_what_the_policy_declared_is_an_error() -> None:
    both = Both(visible=2)
    both.commit(2)
    with pytest.raises(ValueError, match=r"The plan of block 2 reads 3 frames; its policy declared 2\."):
        both.memory.begin(Step.of(2, BLOCK), ReadPlan.of([(0, 0), (1, 1), (2, 2)], 3))


def test_attention_comes_after_begin() -> None:
    with pytest.raises(ValueError, match="begin"):
        RolloutMemory(SPEC, VISIBLE).attend(0, *torch.randn(3, 1, SPEC.tokens, 2, 12))


def test_a_text_is_projected_once_for_each_layer_until_it_changes() -> None:
    memory, calls = RolloutMemory(SPEC, VISIBLE), []

    def project(text: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(text)
        return text * 2, text * 3

    def keys(layer: int, name: str, text: Tensor) -> Tensor:
        return memory.cross(layer, name, lambda: project(text))[0]

    cat, dog = torch.ones(1), torch.full((1,), 5.0)
    with torch.no_grad():
        for name, text in (("cat", cat), ("cat", cat), ("dog", dog), ("cat", cat)):
            assert all(torch.equal(keys(layer, name, text), text * 2) for layer in range(LAYERS))
    assert len(calls) == 3 * LAYERS
    assert torch.equal(keys(0, "cat", cat), cat * 2)
    assert len(calls) == 3 * LAYERS + 1  # with gradients nothing is remembered
