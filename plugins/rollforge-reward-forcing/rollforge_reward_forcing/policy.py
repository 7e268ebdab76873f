"""The cache policy: a sink of moving averages, then the last frames, at times that never grow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from rollforge.policies import CachePolicy
from rollforge.policies.checks import check_window
from rollforge.ranges import Count, Range, Share
from rollforge.spec import ModelSpec, ReadPlan, Step, Virtual


class RewardForcing(CachePolicy):
    """Reads a sink that averages what has left the window, and the last frames, at time indices 0, 1, 2, ...

    The sink begins as the first frames of the video. Before the first pass of a block the frames that leave the window
    enter it, raw keys and values alike: ``sink <- ema sink + (1 - ema) leaving``. Frame ``f`` enters slot ``f mod
    sink`` of the sink, which for a sink of one block is frame by frame, as released. The block itself already sees the
    new sink. Source: Reward Forcing (EMA-Sink) and its released program, whose settings are the defaults.

    Args:
        window_frames: frames that a block sees, itself included.
        sink_frames: frames of the sink.
        ema: what a slot keeps of itself when a frame enters it.
    """

    def __init__(
        self, window_frames: Count = 9, sink_frames: Annotated[int, Range(1, 10_000)] = 3, ema: Share = 0.999
    ) -> None:
        self.window_frames, self.sink_frames, self.ema = window_frames, sink_frames, ema

    def check_sizes(self, spec: ModelSpec, longest: int) -> None:
        check_window(self, self.window_frames, {"sink_frames": self.sink_frames}, spec.block)

    def plan(self, step: Step) -> ReadPlan:
        start, recent = step.start, self._recent(step.start, step.block)
        seen = [*(self._slot(n, recent) for n in range(min(start, self.sink_frames))), *range(recent, start)]
        return ReadPlan.of(((frame, time) for time, frame in enumerate(seen)), len(seen))

    def virtual(self, step: Step) -> Sequence[Virtual]:
        before, after = self._recent(step.start - step.block, step.block), self._recent(step.start, step.block)
        entering = {n: [f for f in range(before, after) if f % self.sink_frames == n] for n in range(self.sink_frames)}
        return [
            Virtual(-1 - n, (self._slot(n, before), *frames), self._weights(len(frames)))
            for n, frames in entering.items()
            if frames
        ]

    def live(self, start: int, block: int) -> frozenset[int]:
        before = self._recent(start - block, block)
        sink = (self._slot(n, before) for n in range(min(start, self.sink_frames)))
        return frozenset([*sink, *range(-self.sink_frames, 0), *range(before, start)])

    def visible(self, block: int) -> int:
        return self.window_frames - block

    def _recent(self, start: int, block: int) -> int:
        """The first frame behind the sink that the block at ``start`` sees."""
        return max(self.sink_frames, start - (self.window_frames - block - self.sink_frames))

    def _slot(self, n: int, recent: int) -> int:
        """The frame in slot ``n`` of the sink once all frames between the sink and ``recent`` have left."""
        return -1 - n if recent > self.sink_frames + n else n

    def _weights(self, entering: int) -> list[float]:
        """Of a slot, and of the frames that enter it one after the other."""
        shares = [(1 - self.ema) * self.ema ** (entering - 1 - n) for n in range(entering)]
        return [self.ema**entering, *shares]
