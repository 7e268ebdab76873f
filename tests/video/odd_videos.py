"""Videos as phones, browsers, taggers and old programs write them. Each frame tells its number and which side is up."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Frames = NDArray[np.uint8]
COUNT, RATE = 24, 8
UPRIGHT = (128, 64)  # width and height
MATROSKA_RATE = bytes.fromhex("23E383")  # the element that says how long a frame lasts


class Odd(NamedTuple):
    """A video and what a player shows of it."""

    write: Callable[[Path], None]
    name: str
    numbers: Sequence[int] = range(COUNT)
    fps: float = RATE
    size: tuple[int, int] = UPRIGHT
    turned: Callable[[Frames], Frames] | None = None  # how the stored pictures lie
    for_decord: bool = False


def picture(number: int, size: tuple[int, int] = UPRIGHT) -> Frames:
    """Grey as the number says, with a red edge above and a green one on the left."""
    image = np.full((size[1], size[0], 3), 20 + 9 * number, np.uint8)
    image[: size[1] // 4] = (200, 30, 30)
    image[size[1] // 4 :, : size[0] // 4] = (30, 200, 30)
    return image


def number(image: Frames) -> int:
    height, width, _ = image.shape
    return round((float(image[height // 2 : -4, width // 2 : -4].mean()) - 20) / 9)


def is_upright(image: Frames) -> bool:
    height, width, _ = image.shape
    above, left = image[height // 8, width // 2].astype(int), image[height * 3 // 4, width // 8].astype(int)
    return above[0] > above[1] + 50 and left[1] > left[0] + 50


def encoded(
    codec: str = "libx264",
    times: Sequence[float] = (),
    tick: Fraction = Fraction(1, 16000),
    options: dict[str, str] | None = None,
    store: Callable[[Frames], Frames] = lambda image: image,
    turn: int = 0,
    aspect: Fraction | None = None,
    pixels: str = "yuv420p",
    rate: Fraction = Fraction(RATE),
    muxer: dict[str, str] | None = None,
) -> Callable[[Path], None]:
    """Writes numbered frames, at their times in seconds where there are some."""

    def write(path: Path) -> None:
        with av.open(path, "w", options=muxer or {}) as container:
            stream: Any = container.add_stream(codec, rate=rate, options=options or {})
            stream.height, stream.width, _ = store(picture(0)).shape
            stream.pix_fmt = pixels
            if times:
                stream.codec_context.time_base = tick
            if aspect:
                stream.codec_context.sample_aspect_ratio = aspect
            if turn:
                stream.set_display_rotation(turn)
            for n in range(len(times) or COUNT):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(store(picture(n))), "rgb24")
                if times:
                    frame.pts, frame.time_base = round(times[n] / tick), tick
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))

    return write


def with_cover(path: Path) -> None:
    """An mp4 whose cover stands before the film, as a widespread tagger writes it."""
    encoded()(path)
    film, jpeg = path.read_bytes(), io.BytesIO()
    Image.new("RGB", (300, 300), (250, 200, 0)).save(jpeg, "JPEG")
    cover = _box(b"covr", _box(b"data", struct.pack(">II", 13, 0) + jpeg.getvalue()))
    handler = _box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    tags = _box(b"udta", _box(b"meta", bytes(4) + handler + _box(b"ilst", cover)))
    at = film.index(b"moov") - 4
    (size,) = struct.unpack(">I", film[at : at + 4])
    path.write_bytes(film[:at] + struct.pack(">I4s", size + len(tags), b"moov") + tags + film[at + 8 :])


def without_rate(times: Sequence[float]) -> Callable[[Path], None]:
    """A WebM as a browser records it."""

    def write(path: Path) -> None:
        options = {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0", "lag-in-frames": "0"}
        tick, live = Fraction(1, 1000), {"live": "1"}
        encoded("libvpx", times, tick, {**options, "crf": "4", "b": "2M"}, rate=Fraction(1000), muxer=live)(path)
        content = bytearray(path.read_bytes())
        at = content.find(MATROSKA_RATE)
        length = 4 + (content[at + 3] & 0x7F)
        content[at : at + length] = bytes([0xEC, 0x80 | (length - 2)]) + bytes(length - 2)  # nothing instead
        path.write_bytes(content)

    return write


def animated(durations: Sequence[int]) -> Callable[[Path], None]:
    """A GIF whose frames last so many milliseconds."""

    def write(path: Path) -> None:
        images = [Image.fromarray(picture(n)) for n in range(len(durations))]
        images[0].save(path, "GIF", save_all=True, append_images=images[1:], duration=list(durations))

    return write


def from_packet(first: int, codec: str, options: dict[str, str]) -> Callable[[Path], None]:
    """A recording that was joined too late: its first packets, with the key frame, are missing."""

    def write(path: Path) -> None:
        whole = path.with_name("whole.mkv")
        encoded(codec, options=options)(whole)
        with av.open(whole) as source, av.open(path, "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in [packet for packet in source.demux(video=0) if packet.size][first:]:
                packet.stream = stream
                target.mux(packet)
        whole.unlink()

    return write


def hiding_one(path: Path) -> None:
    """VP8 with a picture that others refer to and nobody sees, as good encoders make them."""
    whole = path.with_name("whole.webm")
    encoded("libvpx", options={"auto-alt-ref": "0", "crf": "4", "b": "2M"})(whole)
    with av.open(whole) as source, av.open(path, "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for n, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            content = bytearray(bytes(packet))
            content[0] &= 0xEF if n == 10 else 0xFF  # the bit that says whether it is shown
            changed = av.Packet(bytes(content))
            changed.pts = changed.dts = packet.pts - (125 if n > 10 else 120 if n == 10 else 0)  # milliseconds
            changed.time_base = packet.time_base
            changed.is_keyframe, changed.stream = packet.is_keyframe, stream
            target.mux(changed)
    whole.unlink()


def two_tracks(path: Path) -> None:
    """A film, and a second small one that no player shows by itself."""
    with av.open(path, "w") as container:
        streams: list[Any] = [container.add_stream("libx264", rate=RATE) for _ in range(2)]
        for stream, size in zip(streams, (UPRIGHT, (32, 32)), strict=True):
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for n in range(COUNT):
            for stream, size in zip(streams, (UPRIGHT, (32, 32)), strict=True):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(n, size), "rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _turned(quarters: int) -> Callable[[Frames], Frames]:
    return lambda image: np.rot90(image, quarters)


GAPS = [n / 16 for n in range(16)] + [1 + n / 4 for n in range(8)]  # 16 a second, then 4: 23 in 2.75 s
HEVC = {"x265-params": "log-level=none:bframes=3"}
ODD = {
    "plain": Odd(encoded(), "a.mp4", for_decord=True),
    "a name with a colon": Odd(encoded(), "concat:12%03d.mp4", for_decord=True),
    "turned left": Odd(encoded(store=_turned(-1), turn=90), "a.mp4"),
    "turned right": Odd(encoded(store=_turned(1), turn=-90), "a.mov"),
    "turned right, in Matroska": Odd(encoded(store=_turned(1), turn=-90), "a.mkv"),
    "upside down": Odd(encoded(store=_turned(2), turn=180), "a.mp4"),
    "turned, HEVC": Odd(encoded("libx265", store=_turned(-1), turn=90, options=HEVC), "a.mp4"),
    "wide pixels": Odd(encoded(aspect=Fraction(4, 3)), "a.mp4", size=(171, 64)),
    "narrow pixels": Odd(encoded(aspect=Fraction(3, 4)), "a.mkv", size=(96, 64)),
    "wide pixels, turned": Odd(encoded(aspect=Fraction(2), store=_turned(-1), turn=90), "a.mp4", size=(128, 128)),
    "rates rounded to milliseconds": Odd(encoded(rate=Fraction(24)), "a.mkv", fps=24, for_decord=True),
    "ten bits": Odd(encoded(pixels="yuv420p10le"), "a.mp4"),
    "open groups": Odd(encoded("libx265", options={"x265-params": "log-level=none:keyint=8:open-gop=1"}), "a.mp4"),
    "interlaced": Odd(encoded(options={"x264-params": "tff=1:interlaced=1"}), "a.ts"),
    "a cover before the film": Odd(with_cover, "a.mp4"),
    "two tracks": Odd(two_tracks, "a.mkv"),
    "a picture for reference only": Odd(hiding_one, "a.webm", numbers=[*range(10), *range(11, COUNT)]),
    "one frame in 200 seconds": Odd(
        encoded(times=[200 * n for n in range(COUNT)], tick=Fraction(1), rate=Fraction(1, 200)),
        "a.mkv",
        fps=0.005,
        for_decord=True,
    ),
    "a single frame": Odd(encoded(times=[0]), "a.mp4", numbers=[0], for_decord=True),
    "no key frame at the start": Odd(
        from_packet(3, "libx264", {"g": "8", "bf": "0", "sc_threshold": "0"}), "a.mkv", numbers=range(8, COUNT)
    ),
    "frames before the start": Odd(
        encoded(times=[n / RATE - 1 for n in range(COUNT)], muxer={"avoid_negative_ts": "disabled"}),
        "a.mp4",
        numbers=range(8, COUNT),
    ),
    "MPEG-4 in AVI": Odd(encoded("mpeg4", options={"b": "8M"}), "a.avi"),
    "MPEG-2": Odd(encoded("mpeg2video", options={"bf": "2", "b": "8M"}, rate=Fraction(25)), "a.mpg", fps=25),
    "GIF": Odd(animated([120] * 12), "a.gif", numbers=range(12), fps=25 / 3),
}
UNEVEN_VIDEOS = {
    "a phone's mp4": (encoded(times=GAPS), "a.mp4", GAPS),
    "a phone's mp4, turned": (encoded(times=GAPS, store=_turned(-1), turn=90), "b.mp4", GAPS),
    "a browser's WebM": (without_rate(GAPS), "a.webm", GAPS),
    "a GIF": (
        animated([60] * 16 + [240] * 8),
        "a.gif",
        [0.06 * n for n in range(16)] + [0.96 + 0.24 * n for n in range(8)],
    ),
}
