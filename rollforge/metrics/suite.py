"""The whole drift suite in one part."""

from __future__ import annotations

from torch import Tensor

from rollforge.metrics.base import Blocks
from rollforge.metrics.colour import ColourHistogram, Exposure
from rollforge.metrics.fixed_camera import FixedCamera
from rollforge.metrics.flicker import Flicker, Stagnation
from rollforge.metrics.flow import DIS, Flow
from rollforge.metrics.frames import Frame, FrameMetric
from rollforge.metrics.latents import LatentStatistics
from rollforge.metrics.motion import Motion
from rollforge.metrics.repetition import Frames, Repetition
from rollforge.metrics.seams import Seams
from rollforge.metrics.sharpness import Sharpness
from rollforge.ranges import NonNegative, Positive


class DriftSuite(FrameMetric):
    """All measures of drift that need no weights, in one pass.

    The curves are those of ``Flicker``, ``Exposure``, ``ColourHistogram``, ``Sharpness``, ``Motion``,
    ``FixedCamera``, ``Stagnation``, ``Repetition``, ``Seams`` and ``LatentStatistics``; luma, LAB, differences and flow
    are shared. Memory is about 3 MB, the flow of one window and a few frames, whatever the length of the video.

    Args:
        clip_seconds: length of the clips of ``ColourHistogram`` and ``Motion``, and of the windows of ``FixedCamera``.
        still_below: mean absolute difference in grey levels under which the video stands still.
        window: frames that ``Repetition`` holds whole: the longest loop that is known to the frame.
        sink: pixel frames at the start that count as the sink; the first block where that is known, else 9.
        flow: what ``Motion`` and ``FixedCamera`` read. Default: ``DIS``.
    """

    def __init__(
        self,
        clip_seconds: Positive = 2.0,
        still_below: NonNegative = 0.1,
        window: Frames = 1024,
        sink: Frames | None = None,
        flow: Flow | None = None,
    ) -> None:
        self.flicker = Flicker()
        self.exposure = Exposure()
        self.histogram = ColourHistogram(clip_seconds)
        self.sharpness = Sharpness()
        flow = flow or DIS()
        self.motion = Motion(clip_seconds, flow)
        self.fixed_camera = FixedCamera(clip_seconds, flow)
        self.stagnation = Stagnation(still_below)
        self.repetition = Repetition(window, sink=sink)
        self.seams = Seams()
        self.latents = LatentStatistics()

    @property
    def parts(self) -> list[FrameMetric]:
        """Those that look at frames."""
        return [part for part in vars(self).values() if isinstance(part, FrameMetric)]

    def start(self, prompt: str, fps: float, blocks: Blocks | None = None) -> None:
        super().start(prompt, fps, blocks)
        for part in (*self.parts, self.latents):
            part.start(prompt, fps, blocks)

    def begin(self) -> None:
        return

    def look(self, frame: Frame) -> dict[str, float]:
        return {name: value for part in self.parts for name, value in part.look(frame).items()}

    def update_latents(self, latents: Tensor, start: int) -> dict[str, Tensor]:
        return self.latents.update_latents(latents, start)

    def finish(self) -> dict[str, float]:
        return {name: value for part in (*self.parts, self.latents) for name, value in part.finish().items()}
