"""When the frames of a video are shown, and how many a second they truly are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

ASSUMED = 25.0  # frames a second where a file says nothing, as FFmpeg assumes
AGREES = 0.25  # frames by which the times of a whole video may differ from its header's rate
EPSILON = 1e-6  # seconds, for what is lost in floating point


@dataclass(frozen=True)
class Timing:
    """The times of the pictures of a video.

    Args:
        seconds: when each picture is shown, the first at 0; none comes before the one before it.
        fps: pictures a second: what the header says where the times agree with it, else their mean.
    """

    seconds: NDArray[np.float64]
    fps: float

    @classmethod
    def of(cls, times: Sequence[int | None], tick: Fraction, nominal: Fraction | None) -> Timing:
        """Of pictures in showing order, whose times count in ticks of so many seconds.

        Where times are missing or go back, and where they are but rounded, pictures come at the nominal rate.
        """
        count, rate = len(times), float(nominal or 0)
        known = [time for time in times if time is not None]
        seconds = np.array([time - known[0] for time in known], np.float64) * float(tick)
        if len(known) < count or (np.diff(seconds) < 0).any() or not seconds[-1] > 0:
            rate = rate or ASSUMED
            return cls(np.arange(count) / rate, rate)
        if abs(float(seconds[-1]) * rate - (count - 1)) > AGREES:
            return cls(seconds, (count - 1) / float(seconds[-1]))
        even = np.arange(count) / rate
        rounded = np.abs(seconds - even).max() <= min(float(tick), AGREES / rate)
        return cls(even if rounded else seconds, rate)

    def shown_at(self, moments: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """The number of the picture that is shown at each moment, in seconds."""
        return np.maximum(np.searchsorted(self.seconds, moments + EPSILON, side="right") - 1, 0)

    def even(self, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which pictures the frames of an even sequence at ``fps`` show: those that are on in the middle of each."""
        return self.shown_at((frames + 0.5) / self.fps)
