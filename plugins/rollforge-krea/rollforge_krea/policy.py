"""The cache policy of Krea Realtime."""

from __future__ import annotations

from collections.abc import Sequence

from rollforge.policies import CachePolicy
from rollforge.ranges import Count
from rollforge.spec import Event, Phase, ReadPlan, Reencode, Start, Step


class KreaRealtime(CachePolicy):
    """Reads the last frames again before every block, in one pass of their own at time indices 0 to n - 1.

    No key or value is older than one block, so what earlier blocks got wrong, or an earlier prompt said, reaches a new
    block through the latents alone. The context runs at timestep 0 under the prompt of the new block; each block of it
    sees itself and those before it. The new block is at time index n. Once the video is longer than n frames, the
    oldest frame of the context, the anchor, is the last pixel frame of its latent frame, encoded again as the first
    frame of a video. Source: Krea Realtime 14B, the released program, as described; there are no published numbers
    that this was checked against.

    Args:
        context_frames: n, the frames that a block sees.
        reencode: whether the anchor is encoded again; this needs a rollout with pixel frames, through a ``Pipeline``,
            and snapshots with ``kv: save``. Otherwise it stays as it was generated.
    """

    reencoded_pixel = -1  # n frames decode to 4 n pixel frames; the buffer holds the last 1 + 4 (n - 1) of them

    def __init__(self, context_frames: Count = 3, reencode: bool = True) -> None:
        self.context_frames, self.reencodes = context_frames, reencode

    def plan(self, step: Step) -> ReadPlan:
        """Only denoising passes read; what the others write is either the context, or replaced before it is read."""
        if step.phase is Phase.DENOISE:
            return ReadPlan.contiguous([self._context(step.start)])
        return ReadPlan((), 0, causal=True)

    def live(self, start: int, block: int) -> frozenset[int]:
        return frozenset(self._context(start))

    def moves(self, start: int, block: int) -> frozenset[int]:
        return frozenset()

    def visible(self, block: int) -> int:
        return self.context_frames

    def on_commit(self, step: Step) -> Sequence[range | Reencode]:
        return self._again(step.frames.stop) if step.phase is Phase.COMMIT else ()

    def on_event(self, event: Event) -> Sequence[range | Reencode]:
        return self._again(event.step.start) if isinstance(event, Start) else ()

    def _context(self, start: int) -> range:
        return range(max(0, start - self.context_frames), start)

    def _again(self, start: int) -> list[range | Reencode]:
        """What is read again before the block at ``start``."""
        context = self._context(start)
        anchored = self.reencodes and start > self.context_frames
        return [*([Reencode(context.start)] if anchored else []), *([context] if context else [])]
