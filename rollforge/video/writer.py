"""Writes an mp4 while the video is being made.

- Colours are converted to BT.709 limited range and tagged so; one without the other shifts them by several levels.
- The file is fragmented and flushed at each group of pictures: a killed writer leaves all but its last frames readable.
- It is called ``name.partial.mp4`` until it is whole. A file under the final name is finished, always.
- The bytes go through a file of our own: FFmpeg forgets a write error that happens while it closes a file.
"""

from __future__ import annotations

import contextlib
import logging
import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from numpy.typing import NDArray

from rollforge.errors import UserError

Quality = Literal["high", "lossless"]

MOVFLAGS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
# (codec, pixel format, options); zerolatency keeps no frame back, so what was written is what a crash leaves.
ENCODERS: dict[Quality, tuple[str, str, dict[str, str]]] = {
    "high": ("libx264", "yuv420p", {"preset": "veryfast", "tune": "zerolatency", "crf": "12"}),
    "lossless": ("libx264rgb", "rgb24", {"preset": "veryfast", "tune": "zerolatency", "qp": "0"}),
}
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP

log = logging.getLogger(__name__)


class VideoWriter:
    """Streams frames into an H.264 mp4; memory does not grow with its length.

    As a context manager it finishes the file on a clean exit; on an exception it leaves a playable
    ``name.partial.mp4`` and nothing under the final name.

    Args:
        path: the finished file, ``*.mp4``; an older one is replaced when the new one is whole.
        size: width and height in pixels of the frames to come.
        fps: frames a second, fractional ones too.
        scale: whole-number enlargement that keeps pixels crisp, for tiny models.
        quality: ``high`` plays everywhere (odd sizes grow by a repeated edge pixel); ``lossless`` returns the very
            same frames, for metrics that must not score the codec.
        group: frames in a group of pictures, the most that a killed writer loses.

    Raises:
        UserError: for arguments that make no video, and where the file cannot be created.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        fps: float | Fraction,
        scale: int = 1,
        quality: Quality = "high",
        group: int = 12,
    ) -> None:
        self.path, self.size, self.scale, self.quality = Path(path), size, scale, quality
        if self.path.suffix != ".mp4":
            raise UserError(f"A video is written as .mp4; {self.path.name} has another suffix.")
        if min(size) < 1 or fps <= 0 or scale < 1:
            raise UserError(f"{self.path}: size, fps and scale must be positive, not {size}, {fps} and {scale}.")
        self.fps = Fraction(fps).limit_denominator(1001)
        self.partial = self.path.with_suffix(".partial.mp4")
        self.frames = 0
        self._failure: UserError | None = None
        try:
            self._file = _AppendOnly(self.partial)
        except OSError as error:
            raise UserError(
                f"{self.partial} cannot be created ({error.strerror}); choose a folder that exists and can be written."
            ) from error
        self._container = av.open(self._file, "w", format="mp4", options=MOVFLAGS)
        self._stream = self._open_stream(group)
        self._reformatter = VideoReformatter()

    def _open_stream(self, group: int) -> Any:
        codec, pixels, options = ENCODERS[self.quality]
        stream = self._container.add_stream(codec, rate=self.fps, options={**options, "g": str(group)})
        context = stream.codec_context
        context.width, context.height = self._even(self.size[0]), self._even(self.size[1])
        context.pix_fmt, context.time_base = pixels, 1 / self.fps
        if self.quality == "high":
            context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
            context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        return stream

    def _even(self, length: int) -> int:
        """Length of an edge in the file: chroma at half resolution needs an even one."""
        return length * self.scale + (length * self.scale % 2 if self.quality == "high" else 0)

    def write(self, frames: NDArray[np.uint8]) -> None:
        """Appends frames.

        Args:
            frames: RGB, uint8 ``[T, height, width, 3]``, any T.

        Raises:
            UserError: for frames of another kind or size, and when the file takes no more (which is final).
        """
        width, height = self.size
        if frames.dtype != np.uint8 or frames.shape[1:] != (height, width, 3):
            raise UserError(
                f"{self.path.name}: expected uint8 frames [T, {height}, {width}, 3], got {frames.dtype} {list(frames.shape)}."
            )
        if self._failure:
            raise self._failure
        for frame in frames:
            self._mux(self._picture(frame))
            self.frames += 1

    def _picture(self, frame: NDArray[np.uint8]) -> av.VideoFrame:
        large = frame.repeat(self.scale, 0).repeat(self.scale, 1) if self.scale > 1 else frame
        missing = self._stream.height - large.shape[0], self._stream.width - large.shape[1]
        if any(missing):
            large = np.pad(large, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(large), "rgb24")
        if self.quality == "high":
            picture = self._reformatter.reformat(
                picture,
                format="yuv420p",
                interpolation=EXACT,
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                dst_color_primaries=ColorPrimaries.BT709,
                dst_color_trc=ColorTrc.BT709,
            )
        picture.pts, picture.time_base = self.frames, 1 / self.fps
        return picture

    def _mux(self, picture: av.VideoFrame | None) -> None:
        try:
            self._container.mux(self._stream.encode(picture))
        except (OSError, av.FFmpegError) as error:
            self._failure = self._broken(error)
            raise self._failure from error

    def _broken(self, error: OSError | av.FFmpegError) -> UserError:
        return UserError(
            f"{self.path} could not be finished ({error.strerror}): free some space and run again; "
            f"about {self.frames} frames are in {self.partial.name}."
        )

    def close(self) -> None:
        """Finishes the file and gives it its final name. Raises ``UserError`` where that fails or no frame came."""
        if self._file.closed:
            return
        if not self.frames:
            self.abandon()
            self.partial.unlink()
            raise UserError(f"{self.path} was not written: no frame came.")
        try:
            if self._failure:
                raise self._failure
            self._mux(None)
            self._container.close()
            self._file.sync()
            self.partial.replace(self.path)
        except OSError as error:
            self._failure = self._broken(error)
            raise self._failure from error
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Gives up: what was written stays playable as ``name.partial.mp4``. Does nothing after ``close``."""
        if self._file.closed:
            return
        with contextlib.suppress(OSError, av.FFmpegError, UserError):
            if not self._failure and self.frames:
                self._mux(None)
        with contextlib.suppress(OSError, av.FFmpegError):
            self._container.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()
            log.info("%s stays unfinished as %s (%d frames)", self.path, self.partial.name, self.frames)


class _AppendOnly:
    """A file that keeps its first error: everything after it fails too, and so does the final ``sync``."""

    def __init__(self, path: Path) -> None:
        self._raw = path.open("wb", buffering=0)
        self._error: OSError | None = None

    @property
    def closed(self) -> bool:
        return self._raw.closed

    def write(self, data: bytes) -> int:
        if self._error:
            raise self._error
        left = memoryview(data)
        try:
            while left:
                left = left[self._raw.write(left) :]
        except OSError as error:
            self._error = error
            raise
        return len(data)

    def sync(self) -> None:
        if self._error:
            raise self._error
        os.fsync(self._raw.fileno())

    def close(self) -> None:
        self._raw.close()
