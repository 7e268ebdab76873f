"""Repetition: loops of any period, and videos that fall back to how they began."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray

from rollforge.metrics.frames import THUMBNAIL, Frame, FrameMetric
from rollforge.metrics.sink import SinkReturn
from rollforge.metrics.strided_buffer import StridedBuffer
from rollforge.ranges import Range

NAN = float("nan")
FLOOR = 1.0  # grey levels; what is nearer is the same picture
LOOPS = 0.5  # strength from which a video is said to loop
NEAR = 0.1  # a shorter period that is weaker by no more is the period
SINK = 9  # frames, where the first block is not known: Wan's first block
Frames = Annotated[int, Range(1, 100_000)]  # each is kept as a thumbnail
Curve = NDArray[np.float64]


class Repetition(FrameMetric):
    """Self-similarity over all lags, and sink collapse, from 16 x 16 luma thumbnails.

    The distance of two frames is the root mean square difference of their thumbnails, in grey levels. A repeated frame
    is nearer than the frames between: a lag is judged by ``1 - d(lag) / mean(d up to lag)``, which is 1 for a copy,
    about 0 for noise and below 0 (so 0) for a steady drift. Differences below one grey level are no differences.

    All of the last ``window`` frames are held: lags up to ``window`` are exact to the frame, in videos of any length.
    Of all frames at most ``whole`` are held, evenly spaced, so that longer lags are known to ``stride`` frames, the
    smallest power of two with ``frames / stride <= whole`` (128 for an hour at 16 frames per second). Sink distances
    are exact.

    Curves:
        recurrence: 0 to 1, how much the frame looks like an earlier one from before something else was shown.
        sink_distance: distance to the nearest of the sink's frames, in grey levels.

    Whole video:
        loop_strength: 0 to 1, of the lag at which the whole video is most alike, up to half of its length.
        loop_seconds: that lag, exact to the frame; NaN where the strength is below 0.5.
        sink_collapse: ``1 - min d / median d`` of the distances to the sink after they first reached their median:
            1 where a late frame is a sink frame again.
        sink_drop: the largest fall of the distance from its highest so far, over its median; a median of five frames
            is taken first, so that a flash is not a drop.
        sink_drop_seconds: when that drop was deepest.

    Args:
        window: the last frames, all of which are held.
        whole: frames held of the complete video.
        sink: pixel frames at the start that count as the sink; the first block where that is known, else 9.
    """

    def __init__(self, window: Frames = 1024, whole: Frames = 512, sink: Frames | None = None) -> None:
        self.window, self.whole, self.sink = window, whole, sink

    def begin(self) -> None:
        self.ring = torch.zeros(self.window, THUMBNAIL**2)
        self.squares = torch.zeros(self.window)
        self.held, self.at = 0, 0  # frames in the ring, and where the next one goes
        self.sums = torch.zeros(self.window, dtype=torch.float64)  # of distances, by lag less 1
        self.pairs = torch.zeros(self.window, dtype=torch.int64)
        self.old = StridedBuffer(self.whole, THUMBNAIL**2)
        self.back = SinkReturn(self.sink or self.first_block or SINK)

    def look(self, frame: Frame) -> dict[str, float]:
        if frame.previous is None:
            self.held = 0  # lags across a gap are not known
        picture = frame.thumbnail
        lags = self._distances(picture)
        self.sums[: len(lags)] += torch.from_numpy(lags)
        self.pairs[: len(lags)] += 1
        older = self.old.kept[: max(0, self.old.seen - len(lags) + self.old.stride - 1) // self.old.stride]
        far = distances(older.numpy(), older.square().sum(dim=1).numpy(), picture)[::-1]
        self._keep(picture)
        return {
            "recurrence": float(strengths(np.concatenate([lags, far])).max(initial=0)),
            "sink_distance": self.back.add(torch.from_numpy(picture), frame.index),
        }

    def finish(self) -> dict[str, float]:
        lag, strength = self._loop()
        collapse, drop, when = self.back.figures()
        return {
            "loop_strength": strength,
            "loop_seconds": lag / self.fps if strength >= LOOPS else NAN,
            "sink_collapse": collapse,
            "sink_drop": drop,
            "sink_drop_seconds": when / self.fps,
        }

    def _distances(self, picture: NDArray[np.float32]) -> Curve:
        """To the frames in the ring, by lag: the newest first."""
        found = distances(self.ring.numpy(), self.squares.numpy(), picture)
        return np.concatenate([found[: self.at][::-1], found[self.at :][::-1]])[: self.held]

    def _keep(self, picture: NDArray[np.float32]) -> None:
        self.ring[self.at] = torch.from_numpy(picture)
        self.squares[self.at] = float(picture @ picture)
        self.at, self.held = (self.at + 1) % self.window, min(self.held + 1, self.window)
        self.old.add(torch.from_numpy(picture))

    def _loop(self) -> tuple[float, float]:
        """The lag in frames and its strength: of the short lags, or of the long ones where those are much stronger."""
        counts = self.pairs.numpy()
        reach = min(self.old.seen // 2, int((counts > 0).sum()))
        short = _strongest(strengths(self.sums.numpy()[:reach] / counts[:reach]))
        if self.old.seen <= self.window:
            return short
        kept = self.old.kept.numpy()
        profile = [np.sqrt(np.square(kept[n:] - kept[:-n]).mean(axis=1)).mean() for n in range(1, len(kept) // 2 + 1)]
        lag, strength = _strongest(strengths(np.array(profile)))
        return (lag * self.old.stride, strength) if strength > short[1] + NEAR else short


def distances(rows: NDArray[np.float32], squares: NDArray[np.float32], picture: NDArray[np.float32]) -> Curve:
    """Root mean square differences of ``rows [N, P]`` from ``picture [P]``; exact: the products are whole numbers."""
    found = squares - 2 * (rows @ picture) + picture @ picture
    return np.sqrt(found.astype(np.float64) / len(picture))


def strengths(lags: Curve) -> Curve:
    """How much nearer each lag is than the lags up to it, 0 to 1; ``lags`` are distances by lag, from 1."""
    usual = np.cumsum(lags) / np.arange(1, len(lags) + 1)
    return np.clip((usual - lags) / np.maximum(usual, FLOOR), 0, None)


def _strongest(by_lag: Curve) -> tuple[float, float]:
    """The strongest lag, or the peak of the first stretch of lags that comes near it; and its strength."""
    if not len(by_lag):
        return NAN, 0.0
    near = by_lag >= by_lag.max() - NEAR
    first = int(near.argmax())
    ends = np.flatnonzero(~near[first:])
    stretch = by_lag[first : first + int(ends[0])] if len(ends) else by_lag[first:]
    peak = first + int(stretch.argmax())
    return float(peak + 1), float(by_lag[peak])
