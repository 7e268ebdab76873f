"""A short window behind a sink, and the last frames read again when the prompt changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rollforge.errors import UserError
from rollforge.policies.attention_sink import AttentionSink
from rollforge.ranges import Count, CountFromZero
from rollforge.spec import Event, Phase, PromptSwitch, ReadPlan, Segment, Step


class LongLive(AttentionSink):
    """Attends to the sink and the last blocks at their own indices; reads the last frames again under a new prompt.

    Between prompt switches this is ``AttentionSink``. At a switch the frames of the window (K blocks and the one before
    them, no more than there are) run again under the new prompt, so that their keys and values no longer contain the
    old one. While the complete video fits into the window all of it is read again. Later the sink stays as it was first
    read; without ``global_sink`` the oldest frames that are read again become the new sink. The defaults are those of
    the released code. Source: LongLive (arXiv 2509.22622), KV recache and frame sink, and its released code, version 1.

    Args:
        context_blocks: K, the blocks that a block attends to, itself not counted.
        sink_blocks: S, how many of them are the sink; fewer than K.
        recache_blocks: blocks that are read again at a switch, in place of those of the window; at least K.
        recache: ``full`` reads them in one pass, each attending to all; ``block`` one by one, each attending to those
            before it.
        global_sink: whether the first sink survives a switch.

    Raises:
        UserError: a count is not a whole number or does not fit the others, or S = K.
    """

    def __init__(
        self,
        context_blocks: Count = 3,
        sink_blocks: CountFromZero = 1,
        recache_blocks: Count | None = None,
        recache: Literal["full", "block"] = "full",
        global_sink: bool = True,
    ) -> None:
        super().__init__(context_blocks, sink_blocks)
        if sink_blocks == context_blocks or (recache_blocks is not None and recache_blocks < context_blocks):
            raise UserError(
                f"{type(self).__name__} got context_blocks={context_blocks}, sink_blocks={sink_blocks} and "
                f"recache_blocks={recache_blocks}; expected sink_blocks < context_blocks <= recache_blocks, or no "
                "recache_blocks."
            )
        self.recache_blocks, self.recache, self.global_sink = recache_blocks, recache, global_sink
        self.sink_start = 0
        self.recache_start = 0  # the first frame read again at the latest switch

    def plan(self, step: Step) -> ReadPlan:
        start = step.start
        if step.phase is Phase.RECACHE:
            kept = self._sink(step.block, start)
            first = max(self.recache_start, kept.stop)
            runs = [(kept.start, len(kept)), (first, start - first)]
        else:
            recent = min(start - self.sink_start, (self.context_blocks - self.sink_blocks) * step.block)
            kept = self._sink(step.block, start - recent)
            runs = [(kept.start, len(kept)), (start - recent, recent)]
        return ReadPlan(tuple(Segment(first, first, length) for first, length in runs if length > 0), start)

    def on_event(self, event: Event) -> Sequence[range]:
        if not isinstance(event, PromptSwitch):
            return ()
        start, block = event.step.start, event.step.block
        first = self.recache_start = self._reread_from(start, block)
        if not self.global_sink:
            self.sink_start = first
        if self.recache == "full":
            return [range(first, start)]
        ends = reversed(range(start, first, -block))
        return [range(max(first, end - block), end) for end in ends]

    def live(self, start: int, block: int) -> frozenset[int]:
        return frozenset([*self._sink(block, start), *range(self._reread_from(start, block), start)])

    def visible(self, block: int) -> int:
        most = self.context_blocks
        if self.recache == "block" and self.recache_blocks is not None:
            most = max(most, self.sink_blocks + self.recache_blocks)
        return most * block

    def _reread_from(self, start: int, block: int) -> int:
        """The first of the frames that a switch at ``start`` reads again."""
        if self.recache_blocks is not None:
            return max(0, start - self.recache_blocks * block)
        window = (self.context_blocks + 1) * block
        sink = self.sink_blocks * block if self.global_sink and start > window else 0
        return max(0, start - window + sink)

    def _sink(self, block: int, end: int) -> range:
        """The sink's frames below ``end``."""
        return range(self.sink_start, max(self.sink_start, min(self.sink_start + self.sink_blocks * block, end)))
