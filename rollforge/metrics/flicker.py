"""Flicker: how much a frame differs from those just before it; and how long nothing does."""

from __future__ import annotations

from rollforge.metrics.frames import Frame, FrameMetric
from rollforge.ranges import NonNegative

NAN = float("nan")


class Flicker(FrameMetric):
    """Change from frame to frame, in grey levels (0 to 255), mean over pixels and channels. Exact.

    Motion flickers too: read it next to ``flow_top``.

    Curves:
        flicker: mean ``|x[t] - x[t-1]|``; NaN at the first frame.
        flicker_fast: mean ``|x[t] - 2 x[t-1] + x[t-2]|``, what does not go on evenly; NaN at the first two frames.
    """

    def begin(self) -> None:
        return

    def look(self, frame: Frame) -> dict[str, float]:
        fast = NAN
        if frame.change is not None and frame.previous is not None and frame.previous.change is not None:
            fast = float(abs(frame.change - frame.previous.change).mean())
        return {"flicker": frame.step, "flicker_fast": fast}


class Stagnation(FrameMetric):
    """How long the video stands still: frames that differ by less than ``below`` from the one before. Exact.

    Curves:
        still_seconds: for how long it has stood still up to this frame.

    Whole video:
        longest_still_seconds: the longest such run.
        still_share: share of the steps between frames that are still.

    Args:
        below: mean absolute difference in grey levels under which a step counts as still. Things of the procedural
            world, small and slow as they are, change a frame by more.
    """

    def __init__(self, below: NonNegative = 0.1) -> None:
        self.below = below

    def begin(self) -> None:
        self.run = self.longest = self.still = self.steps = 0

    def look(self, frame: Frame) -> dict[str, float]:
        still = frame.step < self.below
        self.run = self.run + 1 if still else 0
        self.longest = max(self.longest, self.run)
        self.still += still
        self.steps += frame.previous is not None
        return {"still_seconds": self.run / self.fps}

    def finish(self) -> dict[str, float]:
        share = self.still / self.steps if self.steps else NAN
        return {"longest_still_seconds": self.longest / self.fps, "still_share": share}
