"""LongLive 2: shots, each at a distance from the one before it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from rollforge.errors import UserError
from rollforge.policies import CachePolicy
from rollforge.ranges import Count, CountFromZero
from rollforge.spec import Cut, Event, Phase, ReadPlan, Step


class LongLive2(CachePolicy):
    """Sees the first block of the video, the first block of the newest shot, and the last blocks.

    A ``Cut`` begins a shot. Frame ``p`` of shot ``n`` (counted from 0) is at time index ``p + n * shot_offset``, so
    that shots are further apart in time than their frames are. The first block of the newest shot is pinned once it is
    committed: when it is no longer among the last blocks it takes the place of the oldest of them. Source: LongLive 2
    as described; there are no published numbers that this was checked against.

    Args:
        context_blocks: K, the blocks that a block sees, itself not counted. The default is a window of 32 frames with
            blocks of 8.
        sink_blocks: S, how many of them are the first of the video; at most K - 2.
        shot_offset: time indices that are left out at a cut.
        drop_at_cut: whether the first block of a shot is committed behind the sink alone, and later blocks see nothing
            else of the shots before. Its denoising passes see them.

    Raises:
        UserError: S is larger than K - 2.
    """

    def __init__(
        self,
        context_blocks: Count = 3,
        sink_blocks: CountFromZero = 1,
        shot_offset: CountFromZero = 8,
        drop_at_cut: bool = False,
    ) -> None:
        if sink_blocks > context_blocks - 2:
            raise UserError(
                f"LongLive2 got sink_blocks={sink_blocks} and context_blocks={context_blocks}, which leaves no place "
                f"for the first block of a shot and a recent block: raise context_blocks to {sink_blocks + 2} or "
                "more, or lower sink_blocks."
            )
        self.context_blocks, self.sink_blocks = context_blocks, sink_blocks
        self.shot_offset, self.drop_at_cut = shot_offset, drop_at_cut
        self.cuts: list[int] = []  # the first frame of every shot but the first

    def plan(self, step: Step) -> ReadPlan:
        start = step.start
        if self.drop_at_cut and step.phase is Phase.COMMIT and start in self.cuts:
            seen = [*self._sink(start, step.block)]
        else:
            seen = self._seen(start, step.block)
        return ReadPlan.of(((frame, self._time(frame)) for frame in seen), self._time(start))

    def live(self, start: int, block: int) -> frozenset[int]:
        return frozenset(self._seen(start, block))

    def moves(self, start: int, block: int) -> frozenset[int]:
        return frozenset()

    def visible(self, block: int) -> int:
        return self.context_blocks * block

    def on_event(self, event: Event) -> Sequence[range]:
        start = event.step.start
        if isinstance(event, Cut) and start and start not in self.cuts:
            self.cuts = [*self.cuts, start]
        return ()

    def _seen(self, start: int, block: int) -> list[int]:
        """The frames that the denoising passes of the block at ``start`` see."""
        sink, shot = self._sink(start, block), self._shot(start)
        oldest = max(sink.stop, shot if self.drop_at_cut else 0)
        places = (self.context_blocks - self.sink_blocks) * block
        recent = range(max(oldest, start - places), start)
        pinned = range(max(sink.stop, shot), min(shot + block, start))
        if pinned and pinned.start < recent.start:
            recent = range(max(pinned.stop, start - places + block), start)
            return [*sink, *pinned, *recent]
        return [*sink, *recent]

    def _shot(self, start: int) -> int:
        """The first frame of the newest shot of which a block is committed before ``start``."""
        before = bisect_left(self.cuts, start)
        return self.cuts[before - 1] if before else 0

    def _sink(self, start: int, block: int) -> range:
        return range(min(start, self.sink_blocks * block))

    def _time(self, frame: int) -> int:
        return frame + self.shot_offset * bisect_right(self.cuts, frame)
