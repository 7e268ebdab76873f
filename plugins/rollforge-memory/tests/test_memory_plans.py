"""What a thousand blocks read, by frame number, against buffers that are written from the rules of the programs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rollforge_memory import LongLiveRAG, MemFlow, MemRoPE, TetherCache

from rollforge.budget.frames import held
from rollforge.policies import CachePolicy
from rollforge.spec import Phase, PromptSwitch, Seen, Step
from rollforge.state import tensors_of
from rollforge.testing import check_plans
from rollforge.testing.tiny import Rolls

Read = tuple[list[tuple[int, int]], int]


def in_order(frames: list[int]) -> Read:
    return [(frame, place) for place, frame in enumerate(frames)], len(frames)


class Buffer:
    """Frames behind a sink; the oldest make place for a block."""

    def __init__(self, window: int, sink: int) -> None:
        self.window, self.sink, self.frames = window, sink, list[int]()

    def __call__(self, step: Step) -> Read:
        if step.phase is Phase.DENOISE:
            while len(self.frames) + step.block > self.window:
                self.leave()
        read = self.read(step)
        if step.phase is Phase.COMMIT:
            self.frames += step.frames
        return read

    def leave(self) -> None:
        self.frames.pop(self.sink)

    def read(self, step: Step) -> Read:
        return in_order(self.frames)


class Averages(Buffer):
    """MemRoPE: the first frames that leave make way for the averages."""

    def leave(self) -> None:
        if -1 not in self.frames:
            self.frames[self.sink : self.sink + 2] = [-1, -2]
        self.frames.pop(self.sink + 2)


class Bank(Buffer):
    """MemFlow: slots fill as candidates come."""

    def __init__(self, window: int, sink: int, bank: int, interval: int) -> None:
        super().__init__(window, sink)
        self.bank, self.interval, self.slots = bank, interval, set[int]()

    def read(self, step: Step) -> Read:
        if step.index:
            self.slots.add(min((step.index - 1) // self.interval, self.bank - 1))
        slots = [(slot - self.bank, slot - self.bank) for slot in self.slots]
        return [*((frame, frame) for frame in self.frames), *slots], step.start


@pytest.mark.parametrize(("block", "window", "sink"), [(3, 12, 3), (2, 9, 1), (3, 11, 0)])
def test_memrope(block: int, window: int, sink: int) -> None:
    check_plans(MemRoPE(window, sink), Averages(window, sink), block=block)


@pytest.mark.parametrize(
    ("block", "window", "sink", "bank", "interval", "interactive"),
    [(3, 12, 3, 3, 3, False), (3, 12, 3, 3, 3, True), (1, 6, 1, 4, 2, True), (3, 8, 2, 1, 1, False)],
)
def test_memflow(block: int, window: int, sink: int, bank: int, interval: int, interactive: bool) -> None:
    switches = {index: [PromptSwitch] for index in (1, 2, 4, 7, 50, 51, 400)}
    expected = Bank(window, sink, bank, interval)
    check_plans(MemFlow(window, sink, bank, interval, interactive), expected, block=block, events=switches)


@pytest.mark.parametrize(("block", "sink", "memory", "recent"), [(3, 3, 14, 4), (1, 1, 5, 2), (3, 0, 2, 7)])
def test_tether_cache(block: int, sink: int, memory: int, recent: int) -> None:
    check_plans(TetherCache(sink, memory, recent, "fifo"), Buffer(sink + memory + recent + block, sink), block=block)

    def scored(step: Step) -> Read:
        behind = max(0, min(step.start - sink - recent, memory))
        last = range(max(sink, step.start - recent), step.start)
        return in_order([*range(min(sink, step.start)), *range(-memory, behind - memory), *last])

    check_plans(TetherCache(sink, memory, recent), scored, block=block)


class Retrieval(Buffer):
    """LongLive-RAG: what has left goes into a pool, which is asked before a block."""

    def __init__(self, window: int, sink: int, count: int, exclude: int, most: int | None) -> None:
        super().__init__(window, sink)
        self.count, self.exclude, self.most = count, exclude, most
        self.pool, self.stride = list[int](), 1
        self.latents: dict[int, np.ndarray] = {}

    def leave(self) -> None:
        self.pool.append(self.frames.pop(self.sink))

    def retrieve(self, start: int) -> list[int]:
        candidates = self.pool[: max(0, len(self.pool) - self.exclude)]
        while self.most is not None and len([f for f in candidates if f % self.stride == 0]) > self.most:
            self.stride *= 2
        candidates = [frame for frame in candidates if frame % self.stride == 0]
        if not candidates:
            return []
        query, every = self.latents[start - 1], np.stack([self.latents[frame] for frame in candidates])
        likeness = every @ query / np.linalg.norm(every, axis=1) / np.linalg.norm(query)
        return [candidates[n] for n in np.argsort(-likeness)[: self.count]]


@pytest.mark.parametrize(
    ("block", "window", "sink", "count", "exclude", "most"),
    [(3, 12, 1, 6, 5, None), (3, 12, 1, 6, 5, 40), (1, 8, 2, 3, 0, 7), (3, 9, 0, 2, 4, None)],
)
def test_longlive_rag(block: int, window: int, sink: int, count: int, exclude: int, most: int | None) -> None:
    policy, pool = LongLiveRAG(window, sink, count, exclude, most), Retrieval(window, sink, count, exclude, most)
    drawn, kept = torch.Generator().manual_seed(0), set[int]()
    capacity = policy.capacity(block)
    blocks = 1000 if most else 150
    for index in range(blocks):
        step = Step.of(index, block)
        retrieved = pool.retrieve(step.start) if index else []
        pool(step)  # frames leave at the first pass
        place = {frame: n for n, frame in enumerate(pool.frames)}
        last = pool.frames[max(min(sink, len(place)), len(place) - (window - sink - count - block)) :]
        seen = [
            *((f, place[f]) for f in pool.frames[:sink]),
            *((f, 0) for f in retrieved),
            *((f, place[f]) for f in last),
        ]
        live = policy.live(step.start, block)
        assert live - kept <= {*range(step.start - block, step.start)}
        assert len(live) <= capacity.frames
        for phase in (Phase.DENOISE, Phase.COMMIT):
            assert list(policy.plan(Step.of(index, block, phase)).entries()) == seen
            assert policy.plan(step).query == len(place)
            assert live.issuperset(frame for frame, _ in seen)
            if phase is Phase.DENOISE:
                latents = torch.randn(1, block, 16, generator=drawn)
                policy.observe(step, None, Seen(latents=latents))
                pool.latents |= dict(zip(step.frames, latents[0].numpy(), strict=True))
        pool(Step.of(index, block, Phase.COMMIT))
        kept = {*live}
    assert policy.descriptors is not None
    assert policy.descriptors.shape[1] == len(policy.live(blocks * block, block))


def test_the_budget_of_longlive_rag_counts_the_complete_video_or_the_pool() -> None:
    assert held(LongLiveRAG(), 3, 3000, 1, False, []).raw == 3000
    assert held(LongLiveRAG(pool_frames=48), 3, 3000, 1, False, []).raw == 48 + 12 + 5


@pytest.mark.parametrize(
    "policy",
    [
        MemFlow(8, 2, 2, 1), MemFlow(8, 2, 2, 1, interactive=True), MemRoPE(9, 1), TetherCache(2, 4, 2),
        TetherCache(2, 4, 2, "fifo"), LongLiveRAG(9, 1, 3, 1, pool_frames=4),
    ],
    ids=lambda policy: type(policy).__name__,
)  # fmt: skip
def test_memory_does_not_grow_with_the_video(policy: CachePolicy) -> None:
    run, sizes, capacity = Rolls(policy, blocks=60).start(), [], policy.capacity(3)
    for _ in run:
        memory = run.passes.memories["prompt"]
        assert capacity is None or len(memory.raw) <= capacity.moves + 3
        sizes.append(memory.nbytes + sum(tensor.nbytes for tensor in tensors_of(run.policy.state_dict())))
    assert max(sizes[30:]) <= max(sizes[:30])
