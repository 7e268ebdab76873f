"""The first blocks played forwards and backwards for ever, under time indices that slide along with the window."""

from __future__ import annotations

from collections.abc import Iterator

from rollforge.policies.base import CachePolicy
from rollforge.policies.checks import check_sinks
from rollforge.ranges import Count, CountFromZero
from rollforge.spec import ReadPlan, Segment, Step


class RollingSink(CachePolicy):
    """Attends to the first blocks, which roll forwards and backwards as the window moves, then to the last blocks.

    Block ``i`` attends to, in place of blocks ``i - K .. i - (K - S) - 1``, the content that a triangle wave over the
    first K blocks has there; then the last ``K - S`` blocks as they are. The wave is the identity over the first K
    blocks, so that one formula covers the whole video. Source: the Rolling Sink paper, where this is Sliding Semantics;
    its released setting is K = 6, S = 5 on blocks of 3 frames.

    Args:
        context_blocks: K, the blocks that a block attends to, itself not counted, and the wave's length; at least 1.
        sink_blocks: S, how many of them roll. 0 is the plain window. S = K leaves no recent block: past block K the
            rollout replays its opening and no longer attends to its predecessor, a limit to study, not to use.

    Raises:
        UserError: a count is not a whole number, K < 1, S < 0 or S > K.
    """

    def __init__(self, context_blocks: Count = 6, sink_blocks: CountFromZero = 5) -> None:
        check_sinks(self, context_blocks, sink_blocks)
        self.context_blocks, self.sink_blocks = context_blocks, sink_blocks

    def plan(self, step: Step) -> ReadPlan:
        length = self.visible(step.block)
        first = max(0, step.start - length)
        seam = max(first, step.start - (self.context_blocks - self.sink_blocks) * step.block)
        runs = [*triangle_wave(range(first, seam), length)]
        if seam < step.start:
            runs.append(Segment(seam, seam, step.start - seam))
        return ReadPlan(tuple(runs), step.start)

    def live(self, start: int, block: int) -> frozenset[int]:
        recent = min(start, (self.context_blocks - self.sink_blocks) * block)
        opening = min(start, self.visible(block)) if self.sink_blocks else 0
        return frozenset([*range(opening), *range(start - recent, start)])

    def moves(self, start: int, block: int) -> frozenset[int]:
        return frozenset(range(min(start, self.visible(block)))) if self.sink_blocks else frozenset()

    def visible(self, block: int) -> int:
        return self.context_blocks * block


def triangle_wave(times: range, length: int) -> Iterator[Segment]:
    """The first ``length`` frames played forwards, backwards, forwards ...: what lies at ``times``, cut at the turns.

    Both ends repeat: ``0 1 2 2 1 0 0 1 2 ..`` for a length of 3.
    """
    time = times.start
    while time < times.stop:
        lap, offset = divmod(time, length)
        run = min(length - offset, times.stop - time)
        yield Segment(offset, time, run) if lap % 2 == 0 else Segment(length - 1 - offset, time, run, stride=-1)
        time += run
