"""H.264 in a fragmented mp4, so that another encoder can continue at the start of any group of pictures.

- A group depends on nothing before it: each has an encoder of its own (that takes a millisecond), since rate control
has a state. All are equally long, without key frames at cuts. One thread: by their number the picture is sliced.
- A fragment is a group. It says where it stands in time, from which the muxer would move it to 0 (``frag_discont`` and
  ``avoid_negative_ts``), and there is no trailer, which would list only the fragments of the last muxer.
- The encoder keeps no frame back, and colours are converted to BT.709 limited range and tagged so; one without the
  other shifts them by several levels.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.codec.context import Flags
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from numpy.typing import NDArray

from rollforge.video.file import AppendOnly

Frames = NDArray[np.uint8]

GROUP = 12  # frames in a group of pictures
MUXER = {
    "movflags": "frag_keyframe+empty_moov+default_base_moof+frag_discont+skip_trailer",
    "flush_packets": "1",
    "use_editlist": "0",
    "avoid_negative_ts": "make_non_negative",
}
CODEC = {
    "preset": "veryfast",
    "tune": "zerolatency",
    "threads": "1",
    "g": str(GROUP),
    "keyint_min": str(GROUP),
    "sc_threshold": "0",
}
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP


class Encoder:
    """Turns frames into the bytes of a video.

    Args:
        file: takes the bytes. One that already holds frames is given the header once more.
        size: width and height of the frames in pixels; an odd edge of the video grows by a repeated pixel.
        tick: seconds from one frame to the next.
        scale: writes every pixel as a square of this many pixels.
        crf: H.264 quality; 0 is lossless RGB.
        first: number of the first frame that will come, the start of a group.
    """

    def __init__(
        self, file: AppendOnly, size: tuple[int, int], tick: Fraction, scale: int, crf: int, first: int = 0
    ) -> None:
        self._tick, self._scale, self._lossless = tick, scale, crf == 0
        grain = 1 if self._lossless else 2  # chroma at half resolution needs even edges
        self._width, self._height = (-(-edge * scale // grain) * grain for edge in size)
        self._name, self._options = "libx264rgb" if self._lossless else "libx264", CODEC | {"crf": str(crf)}
        options = MUXER | {"fragment_index": str(first // GROUP + 1)}
        self._container = av.open(file, "w", format="mp4", options=options)
        self._stream: Any = self._container.add_stream(self._name, rate=1 / tick, options=self._options)
        self._set(self._stream.codec_context)  # it encodes nothing but the header
        self._group: Any = None
        self._convert = VideoReformatter()
        if first:
            self._container.start_encoding()

    def _set(self, context: Any) -> None:
        context.width, context.height = self._width, self._height
        context.pix_fmt, context.time_base = "rgb24" if self._lossless else "yuv420p", self._tick
        if not self._lossless:
            context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
            context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709

    def _open_group(self) -> Any:
        context: Any = av.CodecContext.create(self._name, "w")
        self._set(context)
        context.framerate, context.options = 1 / self._tick, self._options
        context.flags |= Flags.global_header
        return context

    def add(self, image: Frames, number: int) -> None:
        """Encodes a frame, uint8 ``[height, width, 3]``. The first of a group sends the group before to the file."""
        picture = self._picture(image)
        picture.pts, picture.time_base = number, self._tick
        if number % GROUP == 0 or self._group is None:
            self.flush()
            self._group = self._open_group()
        self._mux(picture)

    def flush(self) -> None:
        """Ends the current group."""
        if self._group is not None:
            self._mux(None)
            self._group = None

    def _mux(self, picture: av.VideoFrame | None) -> None:
        for packet in self._group.encode(picture):
            packet.stream = self._stream
            self._container.mux(packet)

    def close(self) -> None:
        """Sends the last group to the file."""
        self._container.close()

    def _picture(self, image: Frames) -> av.VideoFrame:
        large = image.repeat(self._scale, axis=0).repeat(self._scale, axis=1)
        missing = self._height - large.shape[0], self._width - large.shape[1]
        if any(missing):
            large = np.pad(large, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(large), format="rgb24")
        if self._lossless:
            return picture
        return self._convert.reformat(
            picture,
            format="yuv420p",
            interpolation=EXACT,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            dst_color_primaries=ColorPrimaries.BT709,
            dst_color_trc=ColorTrc.BT709,
        )
