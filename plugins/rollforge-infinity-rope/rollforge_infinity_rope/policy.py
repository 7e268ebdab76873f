"""The cache policy of Infinity-RoPE."""

from __future__ import annotations

from collections.abc import Sequence

from rollforge.errors import UserError
from rollforge.policies import CachePolicy
from rollforge.ranges import Count, CountFromZero
from rollforge.spec import Cut, Event, ModelSpec, PromptSwitch, ReadPlan, Step


class InfinityRope(CachePolicy):
    """Sees the first frame and the last ones at time indices 0, 1, 2, ..., and the block right after them.

    The window is counted in frames, the block's own included. Keys are kept without rotation, so that no time index is
    ever larger than the window. At a prompt switch the cache is flushed: only the sink and the last frames stay, and
    nothing is read again. A ``Cut`` flushes too, and puts the first block of the new scene, in all its passes, at a
    distant time index; from the next block on time indices are contiguous again. Source: Infinity-RoPE and its released
    code, commit 63d7b84, whose numbers this equals.

    Args:
        window_frames: the frames of a window, the block's own included.
        sink_frames: how many of them are the first frames of the video.
        flush_frames: how many of the last frames stay at a prompt switch, next to the sink; unset, it flushes nothing.
        cut_index: the time index of the first block of a scene.

    Raises:
        UserError: before the first block, if sink and block do not fit into the window, or the context of a block would
            reach ``cut_index``.
    """

    def __init__(
        self,
        window_frames: Count = 6,
        sink_frames: CountFromZero = 1,
        flush_frames: CountFromZero | None = 2,
        cut_index: CountFromZero = 45,
    ) -> None:
        self.window_frames, self.sink_frames, self.flush_frames = window_frames, sink_frames, flush_frames
        self.cut_index = cut_index
        self.oldest = 0  # the first frame that the latest flush left, next to the sink
        self.cut_start = -1  # the first frame of the scene that began with the latest cut

    def plan(self, step: Step) -> ReadPlan:
        query = self.cut_index if step.start == self.cut_start else None
        return ReadPlan.contiguous(self._seen(step.start, step.block), query)

    def live(self, start: int, block: int) -> frozenset[int]:
        return frozenset(frame for run in self._seen(start, block) for frame in run)

    def moves(self, start: int, block: int) -> frozenset[int]:
        return frozenset(self._seen(start, block)[1])

    def visible(self, block: int) -> int:
        return max(0, self.window_frames - block)

    def check_sizes(self, spec: ModelSpec, longest: int) -> None:
        least = self.sink_frames + spec.block
        if self.window_frames < least:
            raise UserError(
                f"InfinityRope got window_frames={self.window_frames} and sink_frames={self.sink_frames}, and blocks "
                f"of {spec.block} frames are part of the window: raise window_frames to {least} or more."
            )
        if self.cut_index < (context := self.visible(spec.block)):
            raise UserError(
                f"InfinityRope got cut_index={self.cut_index}, but the frames before a block are at the time indices 0 "
                f"to {context - 1}: raise cut_index to {context} or more."
            )

    def on_event(self, event: Event) -> Sequence[range]:
        start = event.step.start
        if isinstance(event, Cut | PromptSwitch) and self.flush_frames is not None:
            self.oldest = max(self.oldest, start - self.flush_frames)
        if isinstance(event, Cut) and start:
            self.cut_start = start
        return ()

    def _seen(self, start: int, block: int) -> tuple[range, range]:
        """The sink, and the recent frames, that the block at ``start`` sees."""
        sink = range(min(start, self.sink_frames))
        recent = max(0, self.visible(block) - self.sink_frames)
        return sink, range(max(sink.stop, self.oldest, start - recent), start)
