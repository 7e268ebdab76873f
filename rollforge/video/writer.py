"""Writes an mp4 block by block, so that what is written is playable at any moment and named finished only when it is.

Colours are converted to BT.709 limited range and tagged so; one without the other shifts them by several levels. The
file is a fragmented mp4, flushed at each group of pictures, under ``<name>.partial.mp4`` until it is closed. The
encoder keeps no frame back, so a killed run loses at most the last group.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from numpy.typing import NDArray

from rollforge.errors import UserError
from rollforge.video.file import AppendOnly

Frames = NDArray[np.uint8]

FLAGS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
GROUP = 12  # frames in a group of pictures
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
BROKEN = (OSError, av.FFmpegError)


class VideoWriter:
    """An mp4 (H.264) that grows; memory does not.

    As a context manager it finishes the file on a clean exit. On an exception it leaves a playable
    ``<name>.partial.mp4`` and nothing under the final name.

    Args:
        path: the finished file, ``*.mp4``.
        size: width and height of the frames in pixels; an odd edge of the video grows by a repeated pixel.
        fps: frames per second, a fraction if need be.
        scale: writes every pixel as a square of this many pixels.
        crf: H.264 quality; lower is better and larger. 0 keeps every frame as it is, in RGB: for metrics, which
            must not score the codec, and for fewer players.

    Raises:
        UserError: for arguments that make no video, and where the file cannot be created.
    """

    def __init__(
        self, path: str | Path, size: tuple[int, int], fps: float | Fraction, scale: int = 1, crf: int = 12
    ) -> None:
        self.path, self.size, self.scale = Path(path), size, scale
        if self.path.suffix != ".mp4":
            raise UserError(f"{self.path.name}: videos are written as .mp4; choose a name that ends so.")
        if min(size) < 1 or fps <= 0 or scale < 1:
            raise UserError(f"{self.path.name}: size, fps and scale must be positive, not {size}, {fps} and {scale}.")
        self.partial = self.path.with_suffix(".partial.mp4")
        self.written = 0
        self._lossless = crf == 0
        self._tick = 1 / Fraction(fps).limit_denominator(1001)
        self._failure: UserError | None = None
        try:
            self._file = AppendOnly(self.partial)
        except OSError as error:
            raise UserError(
                f"{self.partial} cannot be written ({error.strerror}); choose another --output_dir."
            ) from error
        self._container = av.open(self._file, "w", format="mp4", options=FLAGS)
        self._stream = self._open_stream(crf)
        self._convert = VideoReformatter()

    def _open_stream(self, crf: int) -> Any:
        options = {"preset": "veryfast", "tune": "zerolatency", "crf": str(crf), "g": str(GROUP)}
        stream = self._container.add_stream(
            "libx264rgb" if self._lossless else "libx264", rate=1 / self._tick, options=options
        )
        context = stream.codec_context
        grain = 1 if self._lossless else 2  # chroma at half resolution needs even edges
        context.width, context.height = (-(-edge * self.scale // grain) * grain for edge in self.size)
        context.pix_fmt, context.time_base = "rgb24" if self._lossless else "yuv420p", self._tick
        if not self._lossless:
            context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
            context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        return stream

    def write(self, frames: Frames) -> None:
        """Appends frames, uint8 ``[T, height, width, 3]``.

        Raises:
            ValueError: for frames of another kind or size.
            UserError: when the file takes no more. This is final: the video stays unfinished.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (self.size[1], self.size[0], 3):
            raise ValueError(
                f"Expected uint8 [T, {self.size[1]}, {self.size[0]}, 3], got {frames.dtype} {list(frames.shape)}."
            )
        if self._failure:
            raise self._failure
        for image in frames:
            self._mux(self._picture(image))
            self.written += 1

    def _picture(self, image: Frames) -> av.VideoFrame:
        large = image.repeat(self.scale, axis=0).repeat(self.scale, axis=1)
        missing = self._stream.height - large.shape[0], self._stream.width - large.shape[1]
        if any(missing):
            large = np.pad(large, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(large), format="rgb24")
        if not self._lossless:
            picture = self._convert.reformat(
                picture,
                format="yuv420p",
                interpolation=EXACT,
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                dst_color_primaries=ColorPrimaries.BT709,
                dst_color_trc=ColorTrc.BT709,
            )
        picture.pts, picture.time_base = self.written, self._tick
        return picture

    def close(self) -> None:
        """Finishes the file and gives it its name. Raises ``UserError`` where that fails or no frame came."""
        if self._file.closed:
            return
        self.abandon()
        if self._failure:
            raise self._failure
        if not self.written:
            raise UserError(f"{self.path} was not written: no frame came.")
        try:
            self.partial.replace(self.path)
        except OSError as error:
            raise self._fail(error) from error

    def abandon(self) -> None:
        """Stops here: what was written stays playable under its partial name. Does nothing after ``close``."""
        if self._file.closed:
            return
        try:
            try:
                if self.written and not self._failure:
                    self._mux(None)
            finally:
                self._container.close()
            self._file.sync()
        except UserError:
            pass  # kept in _failure
        except BROKEN as error:
            self._fail(error)
        finally:
            self._file.close()
        if not self.written and not self._failure:
            self.partial.unlink()

    def _mux(self, picture: av.VideoFrame | None) -> None:
        try:
            self._container.mux(self._stream.encode(picture))
        except BROKEN as error:
            raise self._fail(error) from error

    def _fail(self, error: OSError | av.FFmpegError) -> UserError:
        """Keeps the first failure; the ones after it are its echoes."""
        self._failure = self._failure or UserError(
            f"Writing {self.partial} failed after {self.written} frames ({error.strerror}); "
            "free space there or choose another --output_dir."
        )
        return self._failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()
