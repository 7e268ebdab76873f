"""The trained horizon: windows of its length that end at multiples of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rollforge.metrics.base import Blocks
from rollforge.pipeline import Pipeline

MARKS = (1, 5, 12, 20, 60)


@dataclass(frozen=True)
class Horizon:
    """The length of the horizon.

    Args:
        fps: pixel frames per second.
        frames: where horizons begin in pixel frames: the first may be shorter than those that follow.
        latents: the same in latent frames; none where there are only pixels.
    """

    fps: float
    frames: Blocks
    latents: Blocks | None = None

    @classmethod
    def of(cls, pipeline: Pipeline) -> Horizon:
        """The horizon of a model."""
        horizon = pipeline.backbone.spec.horizon
        return cls(pipeline.fps, Blocks.of(pipeline.codec.pixel_frames, horizon), Blocks(horizon, horizon))

    @classmethod
    def of_seconds(cls, seconds: float, fps: float) -> Horizon:
        """A horizon in seconds, for existing videos."""
        frames = max(1, round(seconds * fps))
        return cls(fps, Blocks(frames, frames))

    @property
    def seconds(self) -> float:
        """Length of the horizon."""
        return self.frames.first / self.fps


def windows(horizon: Blocks, total: int, marks: Iterable[int] = MARKS) -> dict[int, range]:
    """Frames of the window that ends at each multiple of the horizon, as far as ``total`` frames reach."""
    ends = {x: horizon.first + (x - 1) * horizon.period for x in marks}
    return {x: range(end - horizon.period if x > 1 else 0, end) for x, end in ends.items() if end <= total}
