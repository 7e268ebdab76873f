"""A short window behind a sink, and the last frames read again when the prompt changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rollforge.errors import UserError
from rollforge.policies.attention_sink import AttentionSink
from rollforge.ranges import Count, CountFromZero
from rollforge.spec import Phase, PromptSwitch, ReadPlan, Segment, Step


class LongLive(AttentionSink):
    """Sees the sink and the last blocks at their own indices; reads the last frames again under a new prompt.

    Between prompt switches this is ``AttentionSink``. At a switch the last ``recache_blocks`` run again under the new
    prompt, so that their keys and values no longer speak of the old one, and the oldest of them become the new sink;
    with ``global_sink`` the first sink stays, as it was read under the first prompt. Source: LongLive
    (arXiv 2509.22622), KV recache and frame sink, and its released code.

    Args:
        context_blocks: K, the blocks that a block sees, itself not counted.
        sink_blocks: S, how many of them are the sink.
        recache_blocks: blocks that are read again at a switch, no more than are there.
        recache: ``block`` reads them one by one, each seeing those before it; ``full`` in one pass, each seeing all.
        global_sink: whether the first sink survives a switch.

    Raises:
        UserError: a count is not a whole number or does not fit the others, or S = K.
    """

    def __init__(
        self,
        context_blocks: Count = 3,
        sink_blocks: CountFromZero = 1,
        recache_blocks: Count = 4,
        recache: Literal["block", "full"] = "block",
        global_sink: bool = False,
    ) -> None:
        super().__init__(context_blocks, sink_blocks)
        if sink_blocks == context_blocks or recache_blocks < context_blocks:
            raise UserError(
                f"LongLive got context_blocks={context_blocks}, sink_blocks={sink_blocks} and "
                f"recache_blocks={recache_blocks}; expected sink_blocks < context_blocks <= recache_blocks."
            )
        self.recache_blocks, self.recache, self.global_sink = recache_blocks, recache, global_sink
        self.sink_start = 0

    def plan(self, step: Step) -> ReadPlan:
        start = step.start
        if step.phase is Phase.RECACHE:
            kept = self._sink(step.block, start)
            first = max(self._again, kept.stop)
            runs = [(kept.start, len(kept)), (first, start - first)]
        else:
            recent = min(start - self.sink_start, (self.context_blocks - self.sink_blocks) * step.block)
            kept = self._sink(step.block, start - recent)
            runs = [(kept.start, len(kept)), (start - recent, recent)]
        return ReadPlan(tuple(Segment(first, first, length) for first, length in runs if length > 0), start)

    def on_event(self, event: PromptSwitch) -> Sequence[range]:
        step = event.step
        self._again = max(0, step.start - self.recache_blocks * step.block)
        if not self.global_sink:
            self.sink_start = self._again
        if self.recache == "full":
            return [range(self._again, step.start)]
        return [range(start, start + step.block) for start in range(self._again, step.start, step.block)]

    def live(self, start: int, block: int) -> frozenset[int]:
        last = range(max(0, start - self.recache_blocks * block), start)
        return frozenset([*self._sink(block, start), *last])

    def visible(self, block: int) -> int:
        return max(self.context_blocks, self.sink_blocks + self.recache_blocks) * block

    def _sink(self, block: int, end: int) -> range:
        """The sink's frames below ``end``."""
        return range(self.sink_start, max(self.sink_start, min(self.sink_start + self.sink_blocks * block, end)))

    _again = 0  # the first frame read again at the latest switch
