"""What is really in a video file, and its pictures one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import av

from rollforge.errors import UserError
from rollforge.safe_files import PIXELS, check_size

FORMATS = "mov,mp4,m4a,3gp,matroska,webm,avi,mpeg,mpegts,ogg,flv,gif,h264,hevc,ivf,wav"  # no playlists of other files
OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
STRICT = {
    "max_pixels": str(PIXELS),  # a stream may grow beyond its header
    "err_detect": "explode",  # else what is damaged is painted over, and passes for a picture
}
FASTEST = 1000  # frames a second
DECORD_CODECS = ("h264", "vp8", "vp9")  # in these it is exact


@dataclass(frozen=True)
class VideoInfo:
    """What is really in a video file: frames that can be read, frames a second, width and height in pixels."""

    frames: int
    fps: float
    width: int
    height: int


@dataclass(frozen=True)
class Index:
    """What ``read_clip`` needs to know of a file."""

    info: VideoInfo
    times: tuple[int, ...]  # of every frame, in the stream's time base and in showing order; empty where it has none
    for_decord: bool  # the container holds what it promises, and decord is exact in its codec


def pictures(path: Path, seek: int | None = None) -> Iterator[av.VideoFrame]:
    """Decoded pictures, from the last key frame before ``seek`` on."""
    done = 0
    with _readable(path, lambda: f" after frame {done}" if done else ""), _open(path) as container:
        stream = _video(path, container)
        if seek is not None:
            container.seek(seek, stream=stream)
        for picture in container.decode(stream):
            yield picture
            done += 1
    if not done and seek is None:
        raise UserError(f"{path} holds no frame that can be read.")


def index(path: str | Path) -> Index:
    """The index of a file, made once as long as the file stays the same."""
    return _scan(Path(path), *check(path))


def check(path: str | Path) -> tuple[int, int]:
    """When the file was changed, and its size; raises where there is nothing to read."""
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    if not stat.st_size:
        raise UserError(f"{path} is empty; a video file was expected.")
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=256)
def _scan(path: Path, changed: int, size: int) -> Index:
    """The index of a file; ``changed`` and ``size`` make a new one where the file is no longer the same."""
    with _readable(path), _open(path) as container:
        stream = _video(path, container)
        packets = [(p.pts, p.is_corrupt or p.is_discard) for p in container.demux(stream) if p.size]
        whole = [time for time, spoilt in packets if not spoilt]
        sound = len(whole) == len(packets) and stream.frames in (0, len(packets)) and None not in whole
        codec = stream.codec_context.codec.canonical_name
        width, height, rate = stream.width, stream.height, stream.average_rate or stream.guessed_rate
    times = whole if sound else _decodable(path)
    if not times or not rate:
        raise UserError(f"{path} holds no frame that can be read.")
    if rate > FASTEST:
        raise UserError(f"{path} says that it has {float(rate):g} frames a second; expected at most {FASTEST}.")
    known = tuple(sorted(time for time in times if time is not None))
    info = VideoInfo(len(times), float(rate), width, height)
    return Index(info, known if len(set(known)) == len(times) else (), sound and codec in DECORD_CODECS)


def _decodable(path: Path) -> list[int | None]:
    """The times of the frames before the damage, if there is any; raises where not even one is readable."""
    times: list[int | None] = []
    try:
        for picture in pictures(path):
            times.append(picture.pts)  # noqa: PERF401 - those before the damage must stay
    except UserError:
        if not times:
            raise
    return times


def _open(path: Path) -> Any:
    return av.open(path, options=dict(OPTIONS), metadata_errors="replace")


def _video(path: Path, container: Any) -> Any:
    """The first video stream, whose pictures are no larger than is sane. Raises ``UserError`` where there is none."""
    if not container.streams.video:
        raise UserError(f"{path} holds no video, only something else.")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise UserError(f"{path} is in a format that FFmpeg cannot decode; convert it to H.264.")
    check_size(path, stream.width, stream.height)
    stream.codec_context.options = dict(STRICT)
    return stream


@contextmanager
def _readable(path: Path, where: Callable[[], str] = str) -> Iterator[None]:
    """Turns FFmpeg's complaints into a sentence about the file."""
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        raise UserError(f"{path} is damaged{where()} or is no video ({error.strerror or error}).") from error
