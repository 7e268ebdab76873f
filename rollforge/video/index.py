"""What is really in a video file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from rollforge.errors import UserError
from rollforge.files.reading import check_size, open_regular
from rollforge.video.container import check, film, open_video, pictures, readable
from rollforge.video.shape import Shape
from rollforge.video.timing import ASSUMED, Timing

FASTEST = 1000  # frames a second
ONE_EACH = ("h264", "hevc", "vp8", "vp9", "av1")  # in mp4 and Matroska, one packet for each picture
DECORD_CODECS = ("h264", "vp8", "vp9")  # in these it is exact
MAGIC = {"mov": (4, b"ftyp"), "matroska": (0, b"\x1a\x45\xdf\xa3")}  # where it stands in a file that is nothing else


@dataclass(frozen=True)
class VideoInfo:
    """What is really in a video file, as it is shown.

    Args:
        frames: frames that can be read.
        fps: frames a second; the mean where frames do not come evenly.
        width: of a frame that is turned upright and has square pixels.
        height: of the same.
    """

    frames: int
    fps: float
    width: int
    height: int


@dataclass(frozen=True)
class Index:
    """What the readers need to know of a file."""

    info: VideoInfo
    timing: Timing
    shape: Shape
    times: tuple[int, ...]  # of every picture, in the stream's time base and in showing order; empty where it has none
    for_decord: bool  # nothing in the file is out of the ordinary, and decord is exact in its codec


@dataclass(frozen=True)
class _Packets:
    """What a file says of its pictures before any is decoded."""

    times: list[int | None]
    regular: bool  # a picture for each packet, as far as packets can tell
    for_decord: bool
    tick: Fraction
    rate: Fraction | None
    aspect: Fraction | None


def index(path: str | Path) -> Index:
    """The index of a file, made once as long as the file stays the same."""
    return _scan(Path(path).absolute(), *check(path))


@lru_cache(maxsize=256)
def _scan(path: Path, changed: int, size: int) -> Index:
    """The index of a file; ``changed`` and ``size`` make a new one where the file is no longer the same."""
    packets = _packets(path)
    first = next(iter(pictures(path)))
    shape = Shape.of(first, packets.aspect)
    check_size(path, *shape.shown)
    regular = packets.regular and not first.interlaced_frame
    times = sorted(time for time in packets.times if time is not None) if regular else _decodable(path)
    timing = Timing.of(times, packets.tick, packets.rate)
    if timing.fps > FASTEST:
        raise UserError(f"{path} says that it has {timing.fps:g} frames a second; expected at most {FASTEST}.")
    info = VideoInfo(len(times), timing.fps, *shape.shown)
    eight_bits = all(part.bits == 8 for part in first.format.components)  # deeper ones are rounded in other ways
    for_decord = regular and packets.for_decord and shape.plain and eight_bits
    return Index(info, timing, shape, _rising(times), for_decord)


def _packets(path: Path) -> _Packets:
    with readable(path), open_video(path) as container:
        stream = film(path, container)
        codec, kind = stream.codec_context.codec.canonical_name, container.format.name.split(",")[0]
        packets = [
            (p.pts, p.is_keyframe, p.is_corrupt or p.is_discard or _shows_nothing(codec, p))
            for p in container.demux(stream)
            if p.size
        ]
        times = [time for time, _, _ in packets]
        regular = (
            kind in MAGIC
            and codec in ONE_EACH
            and stream.frames in (0, len(packets))
            and not any(spoilt for _, _, spoilt in packets)
            and None not in times
            and len(set(times)) == len(times) > 0
            and packets[0][1]  # what comes or is shown before the first key frame is not decoded
            and times[0] == min(times)
        )
        alone = len(container.streams.video) == 1
        closed = regular and _closed([(time, key) for time, key, _ in packets])
        return _Packets(
            times,
            regular,
            regular and alone and closed and codec in DECORD_CODECS and _begins(path, *MAGIC[kind]),
            stream.time_base or 1 / Fraction(ASSUMED),
            stream.average_rate or stream.guessed_rate,
            stream.sample_aspect_ratio,
        )


def _rising(times: Sequence[int | None]) -> tuple[int, ...]:
    known = [time for time in times if time is not None]
    rises = len(known) == len(times) and all(before < after for before, after in pairwise(known))
    return tuple(known) if rises else ()


def _shows_nothing(codec: str, packet: Any) -> bool:
    """Whether a packet of VP8 or VP9 holds a picture for reference only, by its first byte and its last."""
    if codec not in ("vp8", "vp9"):
        return False
    first, last = memoryview(packet)[0], memoryview(packet)[-1]
    if codec == "vp8":
        return not first & 0x10
    shown = 0b101 if first & 0x30 == 0x30 else 0b1010  # an earlier picture, or its own; profile 3 has them further back
    return not first & shown and last & 0xE0 != 0xC0  # several pictures in one packet, of which the last is shown


def _closed(packets: Sequence[tuple[int, bool]]) -> bool:
    """Whether no picture that is stored after a key frame is shown before it, and so refers to what lies before."""
    last_key = packets[0][0]
    for time, key in packets:
        last_key = time if key else last_key
        if time < last_key:
            return False
    return True


def _begins(path: Path, at: int, magic: bytes) -> bool:
    """Whether a file begins as one of its kind: then no reader of any version takes it for a list of other files."""
    with open_regular(path) as file:
        return file.read(at + len(magic))[at:] == magic


def _decodable(path: Path) -> list[int | None]:
    """The times of the pictures before the damage, if there is any; raises where not even one is readable."""
    times: list[int | None] = []
    try:
        for picture in pictures(path):
            times.append(picture.pts)  # noqa: PERF401 - those before the damage must stay
    except UserError:
        if not times:
            raise
    return times
