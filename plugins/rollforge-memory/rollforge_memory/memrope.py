"""MemRoPE: a slow and a fast moving average of all that has left the window, one vector for each head."""

from __future__ import annotations

from collections.abc import Sequence

from rollforge.policies import CachePolicy
from rollforge.policies.checks import check_window
from rollforge.ranges import Count, CountFromZero, Share
from rollforge.spec import ModelSpec, ReadPlan, Step, Virtual

LONG, SHORT = -1, -2  # the two virtual frames


class MemRoPE(CachePolicy):
    """Reads a sink, two averages of what has left the window, and the last frames, at time indices 0, 1, 2, ...

    Once the window is full, ``m`` is the mean of the raw keys (and of the values) over all tokens of the frames that
    leave before a block: one vector for each head. The two memory frames become ``m`` the first time, later ``rate m +
    (1 - rate) memory``, and have this vector at every place. They take the places of the first two frames behind the
    sink, which enter no average. Source: MemRoPE (arXiv 2603.12513) and its released program, whose settings are the
    defaults.

    Args:
        window_frames: frames that a block sees, itself included.
        sink_frames: frames of the sink.
        long_rate: share of the newest frames in the slow average.
        short_rate: share of the newest frames in the fast average.
    """

    def __init__(
        self,
        window_frames: Count = 12,
        sink_frames: CountFromZero = 3,
        long_rate: Share = 0.01,
        short_rate: Share = 0.1,
    ) -> None:
        self.window_frames, self.sink_frames = window_frames, sink_frames
        self.long_rate, self.short_rate = long_rate, short_rate

    def check_sizes(self, spec: ModelSpec, longest: int) -> None:
        check_window(self, self.window_frames, {"sink_frames": self.sink_frames}, spec.block, more=2)

    def plan(self, step: Step) -> ReadPlan:
        start, seen = step.start, [*range(step.start)]
        if start > self.visible(step.block):
            seen = [*range(self.sink_frames), LONG, SHORT, *range(self._recent(start, step.block), start)]
        return ReadPlan.of(((frame, time) for time, frame in enumerate(seen)), len(seen))

    def virtual(self, step: Step) -> Sequence[Virtual]:
        start, block = step.start, step.block
        if start <= self.visible(block):
            return ()
        leaving = tuple(range(self._recent(start - block, block), self._recent(start, block)))
        if leaving[0] == self.sink_frames + 2:  # the first that leave
            return [Virtual(frame, leaving, pool="tokens") for frame in (LONG, SHORT)]
        return [
            Virtual(frame, (frame, *leaving), (1 - rate, *[rate / len(leaving)] * len(leaving)), "tokens")
            for frame, rate in ((LONG, self.long_rate), (SHORT, self.short_rate))
        ]

    def live(self, start: int, block: int) -> frozenset[int]:
        if start <= self.visible(block):
            return frozenset([LONG, SHORT, *range(start)])
        recent = range(self._recent(start - block, block), start)
        return frozenset([LONG, SHORT, *range(self.sink_frames), *recent])

    def visible(self, block: int) -> int:
        return self.window_frames - block

    def _recent(self, start: int, block: int) -> int:
        """The first frame behind sink and memory that the block at ``start`` sees."""
        behind = self.sink_frames + 2
        return max(behind, start - (self.window_frames - block - behind))
