"""TetherCache: a memory of frames that are attended to and far apart, chosen in each layer and for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from rollforge.policies import CachePolicy
from rollforge.ranges import Count, CountFromZero, NonNegative, Share
from rollforge.spec import Capacity, ReadPlan, Seen, Step, Virtual
from rollforge_memory.choice import chosen_of, shared_heads
from rollforge_memory.scoring import attention_mass, blend, choose


class TetherCache(CachePolicy):
    """Reads a sink, a memory and the last frames, at time indices 0, 1, 2, ...

    When a block is committed, the candidates are the frames of the memory and those that leave the last frames. Their
    score is the attention that the mean query of the block pays to their mean key, plus ``diversity`` times how far
    they are from better ones (``scoring.choose``). The best ones are the new memory, in the order of the video. Keys
    and values of a frame that is admitted are moved by ``share`` towards those of sink and memory (``scoring.blend``).
    Each layer and sample chooses by itself. Source: TetherCache (arXiv 2606.13035); nothing is released, and what the
    paper's formulas leave open is our reading (README).

    Args:
        sink_frames: frames of the sink.
        memory_frames: frames of the memory.
        recent_frames: last frames before the block.
        memory: ``scored``, or ``fifo``: the newest frames that have left, as they are.
        diversity: weight of the distance in the score.
        share: how far admitted keys and values are moved.
    """

    batches = True  # each sample chooses for itself
    recomputes = True  # it learns from commits alone

    def __init__(
        self,
        sink_frames: CountFromZero = 3,
        memory_frames: Count = 14,
        recent_frames: Count = 4,
        memory: Literal["scored", "fifo"] = "scored",
        diversity: NonNegative = 0.35,
        share: Share = 0.35,
    ) -> None:
        self.sink_frames, self.memory_frames, self.recent_frames = sink_frames, memory_frames, recent_frames
        self.memory, self.diversity, self.share = memory, diversity, share
        if memory == "scored":
            self.observes, self.sees = "all", ("q", "k")
        self.query: dict[int, Tensor] = {}  # by layer, of the block that is committed, [B, heads, head_dim]
        self.fresh: dict[int, Tensor] = {}  # by layer, its mean keys [B, frames, heads, head_dim]
        self.keys: dict[int, Tensor] = {}  # by layer, mean keys of sink, memory and last frames, in this order
        self.frames: dict[int, Tensor] = {}  # by layer, the frame numbers of the memory [B, frames]
        self.choice: dict[int, Tensor] = {}  # by layer, the new memory [B, frames] among the candidates

    def plan(self, step: Step) -> ReadPlan:
        recent = self._recent(step.start)
        memory = self._held(recent)
        first = recent - memory if self.memory == "fifo" else -self.memory_frames
        seen = [*range(min(step.start, self.sink_frames)), *range(first, first + memory), *range(recent, step.start)]
        return ReadPlan.of(((frame, time) for time, frame in enumerate(seen)), len(seen))

    def virtual(self, step: Step) -> Sequence[Virtual]:
        before, after = self._recent(step.start - step.block), self._recent(step.start)
        if self.memory == "fifo" or before == after:
            return ()
        held = self._held(before)
        memory = range(-self.memory_frames, held - self.memory_frames)
        sources = (*range(self.sink_frames), *memory, *range(before, after))
        return [Virtual(-self.memory_frames, sources, make=self._take, count=self._held(after))]

    def observe(self, step: Step, layer: int | None, seen: Seen) -> None:
        if step.phase.final and layer is not None and seen.q is not None and seen.k is not None:
            self.query[layer] = shared_heads(seen.q.float().mean(dim=1), seen.k.shape[2])
            self.fresh[layer] = seen.k.float()

    def on_commit(self, step: Step) -> None:
        before, after = self._recent(step.start), self._recent(step.frames.stop)
        for layer, fresh in self.fresh.items():
            known = self.keys.get(layer, fresh[:, :0])
            self.keys[layer] = torch.cat([known, fresh], dim=1)
            if before < after:
                self._choose(layer, range(before, after))

    def live(self, start: int, block: int) -> frozenset[int]:
        first = self._recent(start - block)
        if self.memory == "fifo":
            return frozenset([*range(min(start, self.sink_frames)), *range(first - self._held(first), start)])
        return frozenset([*range(min(start, self.sink_frames)), *range(-self.memory_frames, 0), *range(first, start)])

    def visible(self, block: int) -> int:
        return self.sink_frames + self.memory_frames + self.recent_frames

    def capacity(self, block: int) -> Capacity:
        held = self.sink_frames + self.memory_frames + self.recent_frames + block
        return Capacity(held, held)

    def _recent(self, start: int) -> int:
        """The first of the last frames that the block at ``start`` sees; all between the sink and it have left."""
        return max(self.sink_frames, start - self.recent_frames)

    def _held(self, recent: int) -> int:
        """Frames of the memory when all before ``recent`` have left."""
        return min(self.memory_frames, recent - self.sink_frames)

    def _choose(self, layer: int, leaving: range) -> None:
        """Chooses the memory among itself and the frames that leave, and follows its mean keys."""
        held, keys = self._held(leaving.start), self.keys[layer]
        sink, memory, left, recent = keys.split(
            [self.sink_frames, held, len(leaving), keys.shape[1] - self.sink_frames - held - len(leaving)], dim=1
        )
        numbers = torch.tensor(list(leaving), device=keys.device).expand(len(keys), -1)
        frames = torch.cat([self.frames.get(layer, numbers[:, :0]), numbers], dim=1)
        candidates = torch.cat([memory, left], dim=1)
        mass = attention_mass(self.query[layer], candidates)
        choice = choose(mass, frames, self._held(leaving.stop), self.diversity)
        admitted = left
        if self.sink_frames + held:  # means of keys that are moved towards the reference
            reference = torch.cat([sink, memory], dim=1).mean(dim=1, keepdim=True)
            admitted = torch.lerp(left, reference.expand_as(left), self.share)
        memory = chosen_of(torch.cat([memory, admitted], dim=1), choice)
        self.keys[layer] = torch.cat([sink, memory, recent], dim=1)
        self.frames[layer], self.choice[layer] = chosen_of(frames, choice), choice

    def _take(self, layer: int, keys: Tensor, values: Tensor, of: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """The new memory: of the old one and the frames that leave, moved towards sink and memory, those chosen."""
        k, v = (self._moved(x, sum(frame < 0 or frame < self.sink_frames for frame in of)) for x in (keys, values))
        return chosen_of(k, self.choice[layer]), chosen_of(v, self.choice[layer])

    def _moved(self, x: Tensor, reference: int) -> Tensor:
        """The candidates ``[B, n, tokens, heads, head_dim]``, of which the first frames are ``reference``."""
        left = blend(x[:, reference:], x[:, :reference], self.share)
        return torch.cat([x[:, self.sink_frames : reference], left], dim=1)
