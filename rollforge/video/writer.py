"""Writes an mp4 block by block, so that what is written is playable at any moment and named finished only when it is.

Colours are converted to BT.709 limited range and tagged so. The file is a fragmented mp4, flushed packet by packet, under
``<name>.partial.mp4`` until it is closed.
"""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from rollforge.errors import UserError

Frames = NDArray[np.uint8]
BT709 = 1
FLAGS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}


class VideoWriter:
    """An mp4 (H.264) that grows.

    Args:
        path: the finished file.
        size: width and height of the frames in pixels.
        fps: frames per second.
        scale: writes every pixel as a square of this many pixels.
        crf: H.264 quality; lower is better and larger.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: float, scale: int = 1, crf: int = 16) -> None:
        width, height = size[0] * scale, size[1] * scale
        if width % 2 or height % 2:
            raise UserError(f"H.264 needs an even size, and {path.name} would be {width}x{height}; choose an even scale.")
        self.path, self.size, self.scale = path, size, scale
        self.partial = path.with_suffix(f".partial{path.suffix}")
        self.written = 0
        rate = Fraction(fps).limit_denominator(1001)
        try:
            self._container = av.open(str(self.partial), "w", format="mp4", options=FLAGS)
        except OSError as error:
            raise UserError(f"{self.partial} cannot be written ({error.strerror}); choose another --output_dir.") from error
        options = {"crf": str(crf), "preset": "fast", "g": "12", "bf": "0"}
        self._stream = self._container.add_stream("libx264", rate=rate, options=options)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = 1 / rate
        context = self._stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = ColorRange.MPEG

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._abandon()

    def write(self, frames: Frames) -> None:
        """Appends frames, uint8 ``[T, height, width, 3]``."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (self.size[1], self.size[0], 3):
            raise ValueError(f"Expected uint8 [T, {self.size[1]}, {self.size[0]}, 3], got {frames.dtype} {list(frames.shape)}.")
        for image in frames:
            large = np.ascontiguousarray(image.repeat(self.scale, axis=0).repeat(self.scale, axis=1))
            picture = av.VideoFrame.from_ndarray(large, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            picture.pts, picture.time_base = self.written, self._stream.time_base
            self._mux(picture)
            self.written += 1

    def close(self) -> None:
        """Finishes the file and gives it its name."""
        self._mux(None)
        self._container.close()
        with self.partial.open("rb+") as file:
            os.fsync(file.fileno())
        self.partial.replace(self.path)

    def _mux(self, picture: av.VideoFrame | None) -> None:
        try:
            self._container.mux(self._stream.encode(picture))
        except OSError as error:
            self._abandon()
            raise UserError(
                f"Writing {self.partial} failed after {self.written} frames ({error.strerror}); "
                "free space there or choose another --output_dir."
            ) from error

    def _abandon(self) -> None:
        """Closes what there is and leaves it under its partial name."""
        try:
            self._container.close()
        except OSError:  # the error that matters has been raised already
            return
