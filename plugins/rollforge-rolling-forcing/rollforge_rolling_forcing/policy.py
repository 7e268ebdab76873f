"""The cache policy: a sink that moves with a working cache, which shares the window with the blocks in progress."""

from __future__ import annotations

from rollforge.errors import UserError
from rollforge.policies import CachePolicy
from rollforge.ranges import Count, CountFromZero
from rollforge.spec import ModelSpec, ReadPlan, Segment, Step


class RollingForcing(CachePolicy):
    """Reads a sink and a working cache in denoising passes, and the last blocks in commit passes.

    The window holds K + 1 blocks. In a denoising pass the blocks in progress and the sink come first, and the working
    cache, the last finished blocks at their own times, has what is left. It therefore grows when the blocks in progress
    become fewer at the end of a video. The sink's keys are rotated to the times just before the working cache. A pass
    that writes reads the last K blocks at their own times, so it reads the first blocks only while they are among them.
    Source: the released program of Rolling Forcing. With 5 blocks in progress, K = 6 and S = 1 (the defaults) the
    working cache is one block, until the end.

    Args:
        context_blocks: K, the blocks that a commit pass reads, itself not counted; the window is one block longer.
        sink_blocks: S, how many of the first blocks every denoising pass reads.

    Raises:
        UserError: S > K.
    """

    def __init__(self, context_blocks: Count = 6, sink_blocks: CountFromZero = 1) -> None:
        if sink_blocks > context_blocks:
            raise UserError(
                f"RollingForcing got sink_blocks={sink_blocks} and context_blocks={context_blocks}, but the sink is "
                f"part of the context; lower sink_blocks to {context_blocks} or less."
            )
        self.context_blocks, self.sink_blocks = context_blocks, sink_blocks

    def check_sizes(self, spec: ModelSpec, longest: int) -> None:
        window = (self.context_blocks + 1) * spec.block
        sink = self.sink_blocks * spec.block
        if longest + sink > window:
            needed = -(-(longest + sink) // spec.block) - 1
            raise UserError(
                f"RollingForcing has a window of {window} frames, but the sampler's passes of {longest} frames and a "
                f"sink of {sink} frames need {longest + sink}; raise context_blocks to {needed} or more, lower "
                "sink_blocks, or give the sampler fewer timesteps."
            )

    def plan(self, step: Step) -> ReadPlan:
        start, context = step.start, self.visible(step.block)
        if step.phase.writes:
            first = max(0, start - context)
            runs = [Segment(first, first, start - first)]
        else:
            sink = min(start, self.sink_blocks * step.block)
            working = max(0, context + step.block - len(step.frames) - self.sink_blocks * step.block)
            first = max(sink, start - working)
            runs = [Segment(0, first - sink, sink), Segment(first, first, start - first)]
        return ReadPlan(tuple(run for run in runs if run.length), start)

    def live(self, start: int, block: int) -> frozenset[int]:
        sink = min(start, self.sink_blocks * block)
        return frozenset([*range(sink), *range(max(0, start - self.visible(block)), start)])

    def moves(self, start: int, block: int) -> frozenset[int]:
        return frozenset(range(min(start, self.sink_blocks * block)))

    def visible(self, block: int) -> int:
        return self.context_blocks * block
