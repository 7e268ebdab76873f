"""The window of Recency Forcing, and its temporal recency bias."""

from __future__ import annotations

from collections.abc import Iterator

from rollforge.errors import UserError
from rollforge.policies import CachePolicy
from rollforge.ranges import Count, CountFromZero, NonNegative
from rollforge.spec import ModelSpec, Phase, ReadPlan, Segment, Step

REACH = 4  # chunks over which the bias falls to its full strength
LAST = 4  # the denoising step from which on the bias does not change


class RecencyForcing(CachePolicy):
    """Reads a sink right before the newest frames, and attends less to older chunks in early denoising steps.

    The newest frames are read at their own time indices, the sink at those just before the oldest of them. In denoising
    step t = 1, 2, 3, 4 the logits of a chunk that is d chunks before the block get ``-strength * dt ** g``, where
    ``dt = min(1, max(0, d - 1) / 4)`` and ``g = 0.1 * 2 ** t``. The newest chunk (d = 1), the sink and the block itself
    get no bias; passes that commit give none. The defaults are those of the paper: with a block of 3 frames, a window
    of 24. Source: Recency Forcing (arXiv 2609.19729).

    Args:
        recent_frames: the newest frames that are read.
        sink_frames: the first frames of the video that are read.
        chunk_frames: frames of a chunk, in which distances are counted.
        strength: what is subtracted from the logits of chunks that are five or more away. 0: no bias.

    Raises:
        UserError: a count is not a whole number in its range; when a rollout starts: a block is longer than
            ``recent_frames``.
    """

    def __init__(
        self,
        recent_frames: Count = 18,
        sink_frames: CountFromZero = 3,
        chunk_frames: Count = 3,
        strength: NonNegative = 4.0,
    ) -> None:
        self.recent_frames, self.sink_frames = recent_frames, sink_frames
        self.chunk_frames, self.strength = chunk_frames, strength

    def plan(self, step: Step) -> ReadPlan:
        sink = min(step.start, self.sink_frames)
        first = max(sink, step.start - self.recent_frames)
        runs = [Segment(0, first - sink, sink)] if sink else []
        return ReadPlan((*runs, *self._recent(step, first)), step.start)

    def live(self, start: int, block: int) -> frozenset[int]:
        return frozenset([*range(min(start, self.sink_frames)), *range(max(0, start - self.recent_frames), start)])

    def moves(self, start: int, block: int) -> frozenset[int]:
        return frozenset(range(min(start, self.sink_frames)))

    def visible(self, block: int) -> int:
        return self.sink_frames + self.recent_frames

    def check_sizes(self, spec: ModelSpec, longest: int) -> None:
        if self.recent_frames < spec.block:
            raise UserError(
                f"RecencyForcing reads the newest {self.recent_frames} frames, fewer than the network's block of "
                f"{spec.block}; set recent_frames to {spec.block} or more."
            )

    def _recent(self, step: Step, first: int) -> Iterator[Segment]:
        """The newest frames, a segment for each chunk, oldest first."""
        start, chunk = step.start, self.chunk_frames
        for distance in range(-(-(start - first) // chunk), 0, -1):
            begin, end = max(first, start - distance * chunk), start - (distance - 1) * chunk
            yield Segment(begin, begin, end - begin, bias=self._bias(step, distance))

    def _bias(self, step: Step, distance: int) -> float:
        """What the logits of a chunk get that is so many chunks before the block."""
        far = min(1.0, max(0, distance - 1) / REACH)
        if step.phase is not Phase.DENOISE or not far:
            return 0.0
        return -self.strength * far ** (0.1 * 2 ** min(step.level + 1, LAST))
