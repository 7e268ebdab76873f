"""Policies with virtual frames, as two released programs keep them."""

from __future__ import annotations

from collections.abc import Sequence

from rollforge.policies import CachePolicy
from rollforge.spec import ReadPlan, Step, Virtual


class RewardForcing(CachePolicy):
    """A sink that averages what leaves the window, then the last frames, at times 0, 1, 2 ... (Reward Forcing)."""

    def __init__(self, window: int, sink: int, ema: float) -> None:
        self.window, self.sink, self.ema = window, sink, ema

    def plan(self, step: Step) -> ReadPlan:
        context = self.visible(step.block)
        if step.start <= context:
            return ReadPlan.of(((frame, frame) for frame in range(step.start)), step.start)
        recent = range(step.start - (context - self.sink), step.start)
        seen = [*self._sinks, *recent]
        return ReadPlan.of(((frame, time) for time, frame in enumerate(seen)), context)

    def virtual(self, step: Step) -> Sequence[Virtual]:
        full = self.visible(step.block)
        if step.start <= full:
            return ()
        leaving = step.start - full - step.block + self.sink
        before = range(self.sink) if step.start == full + step.block else self._sinks
        return [Virtual(sink, (before[n], leaving + n), (self.ema, 1 - self.ema)) for n, sink in enumerate(self._sinks)]

    def live(self, start: int, block: int) -> frozenset[int]:
        full = self.visible(block)
        if start <= full + block:
            return frozenset([*range(start), *self._sinks])
        return frozenset([*self._sinks, *range(start - full, start)])

    def visible(self, block: int) -> int:
        return self.window - block

    @property
    def _sinks(self) -> Sequence[int]:
        return range(-1, -1 - self.sink, -1)


class MemRoPE(CachePolicy):
    """A sink, a slow and a fast average of what has left, pooled over space, then the last frames (MemRoPE)."""

    def __init__(self, window: int, sink: int, long: float, short: float) -> None:
        self.window, self.sink, self.rates = window, sink, (long, short)

    def plan(self, step: Step) -> ReadPlan:
        context = self.visible(step.block)
        if step.start <= context:
            return ReadPlan.of(((frame, frame) for frame in range(step.start)), step.start)
        recent = range(step.start - (context - self.sink - 2), step.start)
        seen = [*range(self.sink), -1, -2, *recent]
        return ReadPlan.of(((frame, time) for time, frame in enumerate(seen)), context)

    def virtual(self, step: Step) -> Sequence[Virtual]:
        full, block = self.visible(step.block), step.block
        if step.start <= full:
            return ()
        end = step.start - (full - self.sink - 2)
        leaving = tuple(range(end - block, end))
        if step.start == full + block:
            return [Virtual(frame, leaving, pool="tokens") for frame in (-1, -2)]
        return [
            Virtual(frame, (frame, *leaving), (1 - rate, *[rate / block] * block), "tokens")
            for frame, rate in zip((-1, -2), self.rates, strict=True)
        ]

    def live(self, start: int, block: int) -> frozenset[int]:
        return frozenset([*range(min(start, self.sink)), -1, -2, *range(max(0, start - self.visible(block)), start)])

    def visible(self, block: int) -> int:
        return self.window - block
