"""The first blocks kept for ever, at time indices that slide along with the window."""

from __future__ import annotations

from rollforge.policies.base import CachePolicy
from rollforge.policies.checks import check_sinks
from rollforge.ranges import Count, CountFromZero
from rollforge.spec import ReadPlan, Segment, Step


class SlidingIndices(CachePolicy):
    """Attends to the first blocks at time indices just before the last blocks, so that the window never has a gap.

    Up to block K all blocks are attended to. From then on block ``i`` attends to block ``l`` at the place of block ``i
    - K + l`` for ``l = 0 .. S - 1``, then the last ``K - S`` blocks at their own indices. Relative positions are those
    of a window that counts from 0. Source: the Sliding Indices rung of the ladder of variants in the Rolling Sink
    paper.

    Args:
        context_blocks: K, the blocks that a block attends to, itself not counted; at least 1.
        sink_blocks: S, how many of them are the first blocks of the video. 0 is the plain window. S = K leaves no
            recent block: past block K every block continues the opening instead of the block before it, which is a
            limit to study, not to use.

    Raises:
        UserError: a count is not a whole number, K < 1, S < 0 or S > K.
    """

    def __init__(self, context_blocks: Count = 6, sink_blocks: CountFromZero = 5) -> None:
        check_sinks(self, context_blocks, sink_blocks)
        self.context_blocks, self.sink_blocks = context_blocks, sink_blocks

    def plan(self, step: Step) -> ReadPlan:
        recent = min(step.start, (self.context_blocks - self.sink_blocks) * step.block)
        sink = min(step.start - recent, self.sink_blocks * step.block)
        seam = step.start - recent  # time index where the sink ends and the recent frames begin
        runs = Segment(0, seam - sink, sink), Segment(seam, seam, recent)
        return ReadPlan(tuple(run for run in runs if run.length), step.start)

    def live(self, start: int, block: int) -> frozenset[int]:
        recent = min(start, (self.context_blocks - self.sink_blocks) * block)
        sink = min(start, self.sink_blocks * block)
        return frozenset([*range(sink), *range(start - recent, start)])

    def moves(self, start: int, block: int) -> frozenset[int]:
        return frozenset(range(min(start, self.sink_blocks * block)))

    def visible(self, block: int) -> int:
        return self.context_blocks * block
