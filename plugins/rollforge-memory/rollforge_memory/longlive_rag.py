"""LongLive-RAG: the frames of the past that are most like the last one, read at time 0."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from rollforge.policies import CachePolicy
from rollforge.policies.checks import check_window
from rollforge.ranges import Count, CountFromZero
from rollforge.spec import Capacity, ModelSpec, ReadPlan, Seen, Segment, Step


class LongLiveRAG(CachePolicy):
    """Reads a sink, the frames of the past that are most like the last one, and the very last frames.

    A frame's time index is its slot in a window of the sink and the newest frames. Of that window only the sink and the
    end are read; retrieved frames take the places between, all at time 0. Frames that leave the window enter a pool.
    All but the newest ``exclude_frames`` of it are candidates, and those whose descriptor has the largest cosine with
    that of the last finished frame are retrieved, once for each block. The descriptor is the latent's mean over its
    places. Source: LongLive-RAG (arXiv 2606.02553) and its released program with ``avg_pool``; the defaults are its
    settings.

    Every sample of a batch would retrieve other frames, so videos are generated one by one.

    Args:
        window_frames: frames of the window, the block included.
        sink_frames: frames of the sink.
        retrieved_frames: frames that are retrieved.
        exclude_frames: how many of the frames that left last are not candidates yet.
        pool_frames: the most candidates that are kept. When there are more, every second one is dropped, so that the
            rest is spread over the complete past. Default: all, as released; then memory grows with the video.
    """

    sees = ("latents",)
    recomputes = True  # it sees the latents of finished blocks alone

    def __init__(
        self,
        window_frames: Count = 12,
        sink_frames: CountFromZero = 1,
        retrieved_frames: Count = 6,
        exclude_frames: CountFromZero = 5,
        pool_frames: Count | None = None,
    ) -> None:
        self.window_frames, self.sink_frames, self.retrieved_frames = window_frames, sink_frames, retrieved_frames
        self.exclude_frames, self.pool_frames = exclude_frames, pool_frames
        self.retrieved: dict[int, list[int]] = {}  # by the first frame of a block, the best first
        self.described: list[int] = []
        self.descriptors: Tensor | None = None  # of these frames, [1, frames, channels]

    def check_sizes(self, spec: ModelSpec, longest: int) -> None:
        held = {"sink_frames": self.sink_frames, "retrieved_frames": self.retrieved_frames}
        check_window(self, self.window_frames, held, spec.block)

    def plan(self, step: Step) -> ReadPlan:
        start, query = step.start, min(step.start, self.window_frames - step.block)
        sink = min(start, self.sink_frames)
        recent = max(sink, start - (self.visible(step.block) - self.sink_frames - self.retrieved_frames))
        retrieved = (Segment(frame, 0, 1) for frame in self.retrieved.get(start, ()))
        runs = [Segment(0, 0, sink), *retrieved, Segment(recent, query - (start - recent), start - recent)]
        return ReadPlan(tuple(run for run in runs if run.length), query)

    def observe(self, step: Step, layer: int | None, seen: Seen) -> None:
        if seen.latents is None:
            return
        start = step.frames.stop
        known = [] if self.descriptors is None else [self.descriptors]
        every = torch.cat([*known, seen.latents.float()], dim=1)
        frames = [*self.described, *step.frames]
        live = self.live(start, step.block)
        wanted = [n for n, frame in enumerate(frames) if frame in live]
        self.described, self.descriptors = [frames[n] for n in wanted], every[:, wanted]
        self.retrieved = {step.start: self.retrieved.get(step.start, []), start: self._most_like(every[0, -1], start)}

    def live(self, start: int, block: int) -> frozenset[int]:
        held = range(max(0, self._pool_end(start)), start)
        return frozenset([*range(min(start, self.sink_frames)), *self._candidates(start), *held])

    def visible(self, block: int) -> int:
        return self.window_frames - block

    def capacity(self, block: int) -> Capacity:
        if self.pool_frames is None:
            return Capacity(sys.maxsize, sys.maxsize)
        most = self.pool_frames + self.window_frames + self.exclude_frames
        return Capacity(most, most)

    def _pool_end(self, start: int) -> int:
        """Frames below it have left the window before the block at ``start``, and may be retrieved."""
        return start - (self.window_frames - self.sink_frames) - self.exclude_frames

    def _candidates(self, start: int) -> Sequence[int]:
        """The frames that the block at ``start`` may retrieve."""
        stride, end = 1, self._pool_end(start)
        while self.pool_frames is not None and len(self._every(stride, end)) > self.pool_frames:
            stride *= 2
        return self._every(stride, end)

    def _every(self, stride: int, end: int) -> range:
        first = -(-self.sink_frames // stride) * stride
        return range(first, max(first, end), stride)

    def _most_like(self, descriptor: Tensor, start: int) -> list[int]:
        """The candidates of the block at ``start`` that are most like a descriptor ``[channels]``, the best first."""
        candidates = {*self._candidates(start)}
        rows = [n for n, frame in enumerate(self.described) if frame in candidates]
        if self.descriptors is None or not rows:
            return []
        likeness = cosine_similarity(self.descriptors[0, rows], descriptor[None], dim=-1)
        best = likeness.topk(min(self.retrieved_frames, len(rows))).indices.tolist()
        return [self.described[rows[n]] for n in best]
