"""Two videos side by side, labelled, with the time and the trained horizon."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from rollforge.errors import UserError
from rollforge.video.reader import VideoInfo, frames, probe
from rollforge.video.sheet import FAINT, INK, MARK, PAPER, font
from rollforge.video.writer import VideoWriter

BAR, FOOT, GAP = 36, 32, 8  # pixels
NARROW = 256  # videos narrower than this are enlarged, or the words would not fit
TRACK = (226, 228, 231)

Frames = NDArray[np.uint8]


def side_by_side(
    paths: tuple[str | Path, str | Path],
    labels: tuple[str, str],
    out: str | Path,
    horizon: float | None = None,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Writes ``out``, both videos frame by frame, in constant memory; past ``horizon`` seconds the clock turns red.

    The place of a video that ends first goes blank. ``watch`` is called at each frame; what it raises ends the work.

    Raises:
        UserError: for videos of different sizes or frame rates, or which cannot be read, and where ``out`` cannot be
            written.
    """
    left, right = (probe(path) for path in paths)
    if (left.width, left.height, left.fps) != (right.width, right.height, right.fps):
        raise UserError(f"{paths[0]} and {paths[1]} differ in size or frame rate and cannot be shown side by side.")
    layout = _Layout(left, max(left.frames, right.frames) / left.fps, labels, horizon)
    with VideoWriter(out, layout.size, left.fps) as writer:
        for number, pair in enumerate(zip_longest(frames(paths[0]), frames(paths[1]))):
            watch()
            writer.write(layout.page(pair, number / left.fps)[None])


class _Layout:
    """Where things go; what never changes is drawn once."""

    def __init__(self, info: VideoInfo, seconds: float, labels: tuple[str, str], horizon: float | None) -> None:
        self.scale = -(-NARROW // info.width)
        self.wide, self.high = info.width * self.scale, info.height * self.scale
        self.seconds, self.horizon = seconds, horizon
        self.size = (2 * self.wide + GAP, BAR + self.high + FOOT)
        self.empty = Image.new("RGB", self.size, PAPER)
        pen = ImageDraw.Draw(self.empty)
        for side, label in enumerate(labels):
            pen.text((self._left(side) + self.wide // 2, BAR // 2), label, INK, font(20), anchor="mm")

    def page(self, pair: tuple[Frames | None, Frames | None], time: float) -> Frames:
        """One frame of the picture, uint8 ``[height, width, 3]``."""
        page = self.empty.copy()
        pen = ImageDraw.Draw(page)
        for side, frame in enumerate(pair):
            if frame is not None:
                large = frame.repeat(self.scale, axis=0).repeat(self.scale, axis=1)
                page.paste(Image.fromarray(large), (self._left(side), BAR))
        self._clock(pen, time)
        return np.asarray(page)

    def _left(self, side: int) -> int:
        return side * (self.wide + GAP)

    def _clock(self, pen: ImageDraw.ImageDraw, time: float) -> None:
        """The bar fills with time: grey within the horizon, red past it."""
        y = BAR + self.high + 3
        now, end = self._along(time), self._along(self.seconds)
        pen.rectangle([(0, y), (end, y + 3)], TRACK)
        pen.rectangle([(0, y), (now, y + 3)], FAINT)
        note, colour = f"{time:.1f} s", FAINT
        if self.horizon and self.horizon < self.seconds:
            edge = self._along(self.horizon)
            if time > self.horizon:
                pen.rectangle([(edge, y), (now, y + 3)], MARK)
                note, colour = f"{note}  =  {time / self.horizon:.1f} x the trained horizon", MARK
            pen.rectangle([(edge, y - 2), (edge + 1, y + 6)], MARK)
        pen.text((6, y + 8), note, colour, font(15))

    def _along(self, time: float) -> int:
        return round((self.size[0] - 1) * min(1.0, time / self.seconds))
