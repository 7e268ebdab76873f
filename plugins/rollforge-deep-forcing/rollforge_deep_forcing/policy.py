"""The cache policy of Deep Forcing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rollforge.errors import UserError
from rollforge.policies import CachePolicy
from rollforge.ranges import Count
from rollforge.spec import Capacity, ModelSpec, ReadPlan, Seen, Segment, Step, Virtual
from rollforge_deep_forcing.selection import scores, taken, top


class DeepForcing(CachePolicy):
    """Reads a deep sink, chosen tokens of the middle, and the last frames; all at contiguous time indices.

    A block reads every frame until the window is full. Then the context is compressed, before the first denoising step
    of the block: the sink and the last frames stay, and of the tokens between them, in each layer and sample by itself,
    those that have the largest sum of queries . keys. These fill virtual frames, are read between the sink and the last
    frames, each at its own place, and compete again at the next compression. The last frames keep their time indices.
    Source: Deep Forcing (deep sink, participative compression). There is no public program; README.md says what is our
    reading.

    Args:
        window: frames of a full window, the block included.
        budget: frames that are read after a compression, the block not included.
        sink: the first frames of the video that are kept.
        recent: the last frames that are kept at a compression.
        queries: the last frames whose queries choose.

    Raises:
        UserError: a count is not a whole number of 1 or more, or ``sink + recent`` leaves nothing of ``budget``; when a
            rollout starts: ``budget`` and a block do not fit into ``window``.
    """

    observes = "all"
    sees = ("q_rotated", "k_rotated")
    shifts = True
    whole = ("k_rotated",)
    batches = True  # every sample chooses for itself
    recomputes = True  # it learns from commits alone

    def __init__(
        self, window: Count = 21, budget: Count = 16, sink: Count = 10, recent: Count = 4, queries: Count = 4
    ) -> None:
        if sink + recent >= budget:
            raise UserError(
                f"DeepForcing got sink={sink}, recent={recent} and budget={budget}; expected a budget of "
                f"{sink + recent + 1} or more, so that there is space for chosen tokens."
            )
        self.window, self.budget, self.sink, self.recent, self.queried = window, budget, sink, recent, queries
        self.compressed = -1  # the start of the block before which the context was compressed last
        self.tail = sink  # the first of the frames that are kept complete behind the sink
        self.sources: list[int] = []  # of the chosen tokens
        self.tokens: Tensor | None = None  # which of them: [layers, B, tokens of all virtual frames]
        self.keys: dict[int, Tensor] = {}  # layer -> rotated keys from ``tail`` on, [B, F, tokens, heads, head_dim]
        self.chosen_keys: dict[int, Tensor] = {}  # layer -> those of the chosen tokens, [B, n, heads, head_dim]
        self.queries: dict[int, Tensor] = {}  # layer -> rotated queries of the last frames, [B, F, heads, head_dim]

    def plan(self, step: Step) -> ReadPlan:
        if self.compressed < 0:
            return ReadPlan((Segment(0, 0, step.start),) if step.start else (), step.start)
        first = self.tail - self._space
        chosen = [Segment(frame, first + n, 1) for n, frame in enumerate(self._virtual())]
        tail = Segment(self.tail, self.tail, step.start - self.tail)
        return ReadPlan((Segment(0, first - self.sink, self.sink), *chosen, tail), step.start)

    def live(self, start: int, block: int) -> frozenset[int]:
        sources = self.sources if start == self.compressed else ()
        tail = range(self.tail if self.compressed >= 0 else 0, start)
        return frozenset([*range(min(start, self.sink)), *self._virtual(), *sources, *tail])

    def visible(self, block: int) -> int:
        return max(self.budget, self.window - block)

    def check_sizes(self, spec: ModelSpec, longest: int) -> None:
        if self.budget + spec.block > self.window:
            raise UserError(
                f"DeepForcing got budget={self.budget} and window={self.window}, and the network's block has "
                f"{spec.block} frames; raise window to {self.budget + spec.block} or more, or lower budget."
            )

    def capacity(self, block: int) -> Capacity:
        keys = -(-(self.window - self.sink) // 2)  # its own copies of keys, which are half of what a frame keeps
        return Capacity(self.window + keys, self.window + keys)

    def virtual(self, step: Step) -> Sequence[Virtual]:
        if step.start != self.compressed:
            return ()
        frames = [-1 - n for n in range(self._space)]
        parts = [None] * self._space if self.tokens is None else self.tokens.chunk(self._space, dim=2)
        return [Virtual(frame, tuple(self.sources), tokens=part) for frame, part in zip(frames, parts, strict=True)]

    def observe(self, step: Step, layer: int | None, seen: Seen) -> None:
        if layer is None or not step.phase.final or seen.k_rotated is None or seen.q_rotated is None:
            return
        behind = max(0, self.sink - step.start)  # how many of these frames belong to the sink
        self.keys[layer] = _joined(self.keys.get(layer), seen.k_rotated[:, behind:])
        self.queries[layer] = _joined(self.queries.get(layer), seen.q_rotated)[:, -self.queried :]

    def on_commit(self, step: Step) -> None:
        stop = step.frames.stop
        space = self._space if self.compressed >= 0 else 0
        if self.sink + space + stop - self.tail + step.block > self.window:
            self._compress(stop)

    def _compress(self, stop: int) -> None:
        """Makes space before the block at ``stop``."""
        self.sources = [*self._virtual(), *range(self.tail, stop - self.recent)]
        self.tail, self.compressed = stop - self.recent, stop
        if self.keys:  # which there are not where plans are followed without a network
            chosen = {layer: self._choose(layer) for layer in sorted(self.keys)}
            unread = next(iter(chosen.values()))  # of layers without keys
            self.tokens = torch.stack([chosen.get(layer, unread) for layer in range(max(chosen) + 1)])

    def _choose(self, layer: int) -> Tensor:
        """The chosen tokens of one layer, ``[B, n]``, by their number among all tokens of the sources."""
        keys = self.keys[layer]
        middle, self.keys[layer] = keys[:, : -self.recent], keys[:, -self.recent :]
        candidates = _joined(self.chosen_keys.get(layer), middle.flatten(1, 2))
        index = top(scores(self.queries[layer], candidates), self._space * keys.shape[2])
        self.chosen_keys[layer] = taken(candidates, index)
        return index

    @property
    def _space(self) -> int:
        """Frames that the chosen tokens fill."""
        return self.budget - self.sink - self.recent

    def _virtual(self) -> list[int]:
        """The frames of chosen tokens that there are, oldest tokens first."""
        return [-1 - n for n in range(self._space)] if self.compressed >= 0 else []


def _joined(before: Tensor | None, after: Tensor) -> Tensor:
    return after if before is None else torch.cat([before, after], dim=1)
