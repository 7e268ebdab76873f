"""The sliding window of Self Forcing."""

from __future__ import annotations

from rollforge.policies.base import CachePolicy
from rollforge.ranges import Count
from rollforge.spec import ReadPlan, Segment, Step


class Window(CachePolicy):
    """Attends to the last blocks at their own time indices, and to nothing before them.

    Block ``i`` attends to blocks ``i - K .. i - 1``. Source: Self Forcing, rolling KV cache; the first rung of the
    ladder of variants in the Rolling Sink paper.

    Args:
        context_blocks: K, the blocks that a block attends to, itself not counted; at least 1.

    Raises:
        UserError: ``context_blocks`` is not a whole number of at least 1.
    """

    def __init__(self, context_blocks: Count = 6) -> None:
        self.context_blocks = context_blocks

    def plan(self, step: Step) -> ReadPlan:
        length = min(step.start, self.visible(step.block))
        first = step.start - length
        return ReadPlan((Segment(first, first, length),) if length else (), step.start)

    def live(self, start: int, block: int) -> frozenset[int]:
        return frozenset(range(max(0, start - self.visible(block)), start))

    def moves(self, start: int, block: int) -> frozenset[int]:
        return frozenset()

    def visible(self, block: int) -> int:
        return self.context_blocks * block
