"""Reads videos: PyAV is the reader of record; decord, where it is installed, cuts random clips faster.

A container's own frame count is never believed: decord waits for ever for frames that a header only promises, so it
gets a file only when the packets were counted and agree. Nor does it get codecs in which it is silently two frames off
after a seek (MPEG-4 with B-frames, HEVC with open groups of pictures).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from rollforge.errors import UserError

Backend = Literal["auto", "decord", "pyav"]
Frames = NDArray[np.uint8]

DECORD_CODECS = ("h264", "vp8", "vp9")  # in these it is exact
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


@dataclass(frozen=True)
class VideoInfo:
    """What is really in a video file: frames that can be read, frames a second, width and height in pixels."""

    frames: int
    fps: float
    width: int
    height: int


@dataclass(frozen=True)
class _Index:
    info: VideoInfo
    times: tuple[int, ...]  # of every frame, in the stream's time base and in showing order; empty where it has none
    for_decord: bool  # the container holds what it promises, and decord is exact in its codec


def probe(path: str | Path) -> VideoInfo:
    """Counts the frames of a video, by its packets, or by decoding it where the packets are in doubt.

    Raises:
        UserError: for a file that is missing, empty, damaged or no video.
    """
    return _index(path).info


def frames(path: str | Path) -> Iterator[Frames]:
    """Every frame of a video in order, RGB uint8 ``[H, W, 3]``, converted with exact rounding.

    Raises:
        UserError: for a file that is missing, empty, damaged or no video.
    """
    _version(path)
    for picture in _pictures(Path(path)):
        yield _rgb(picture, interpolation=EXACT)


def read_clip(path: str | Path, start: int, count: int, stride: int = 1, backend: Backend = "auto") -> Frames:
    """A clip out of the middle, exact to the frame, the same from both backends.

    It uses FFmpeg's quick colour conversion, the one decord has (about one level darker than ``frames``).

    Args:
        path: the video.
        start: its first frame.
        count: frames in the clip.
        stride: takes every n-th frame.
        backend: ``decord``, ``pyav``, or ``auto``: decord where it is installed and the file is sound.

    Returns:
        RGB, uint8 ``[count, H, W, 3]``.

    Raises:
        UserError: for a clip outside the video, a file that cannot be read, or a backend that is not installed.
    """
    index = _index(path)
    if start < 0 or count < 1 or stride < 1 or start + (count - 1) * stride >= index.info.frames:
        raise UserError(
            f"{path} has {index.info.frames} frames, so no clip of {count} from frame {start}, every {stride}."
        )
    wanted = range(start, start + count * stride, stride)
    clip = _with_decord(Path(path), index, wanted, backend) if backend != "pyav" else None
    return _with_pyav(Path(path), index, wanted) if clip is None else clip


def _with_decord(path: Path, index: _Index, wanted: range, backend: Backend) -> Frames | None:
    """The clip, or None where ``auto`` should turn to PyAV."""
    try:
        import decord

        reason = f"decord cannot be trusted with {path}"
        reader = decord.VideoReader(str(path), num_threads=1) if index.for_decord else None
        if reader and len(reader) == index.info.frames:
            return np.asarray(reader.get_batch(list(wanted)).asnumpy(), np.uint8)
    except ImportError:
        reason = "decord is not installed (pip install decord)"
    except (decord.DECORDError, RuntimeError):
        reason = f"decord cannot read {path}"
    if backend == "decord":
        raise UserError(f"{reason}; choose the backend 'pyav'.")
    return None


def _with_pyav(path: Path, index: _Index, wanted: range) -> Frames:
    clip = np.empty((len(wanted), index.info.height, index.info.width, 3), np.uint8)
    if not index.times:
        for number, picture in enumerate(_pictures(path)):
            if number in wanted:
                clip[wanted.index(number)] = _rgb(picture)
        return clip
    slots = {index.times[number]: slot for slot, number in enumerate(wanted)}
    last = max(slots)
    for seek in (index.times[wanted[0]], None):  # once more from the start, where seeking lands too late
        left = dict(slots)
        for picture in _pictures(path, seek):
            time = picture.pts
            if time is not None and time in left:
                clip[left.pop(time)] = _rgb(picture)
            if not left or (time is not None and time > last):
                break
        if not left:
            return clip
    raise UserError(f"{path} is damaged: {len(left)} frames of the clip cannot be decoded.")


def _rgb(picture: av.VideoFrame, **how: Any) -> Frames:
    return np.asarray(picture.to_ndarray(format="rgb24", **how), np.uint8)


def _pictures(path: Path, seek: int | None = None) -> Iterator[av.VideoFrame]:
    """Decoded pictures, from the last key frame before ``seek`` on."""
    done = 0
    with _readable(path, lambda: f" after frame {done}" if done else ""), av.open(path) as container:
        stream = _video(path, container)
        if seek is not None:
            container.seek(seek, stream=stream)
        for picture in container.decode(stream):
            yield picture
            done += 1


def _index(path: str | Path) -> _Index:
    return _scan(Path(path), *_version(path))


def _version(path: str | Path) -> tuple[int, int]:
    """When the file was changed, and its size; raises where there is nothing to read."""
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    if not stat.st_size:
        raise UserError(f"{path} is empty; a video file was expected.")
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=256)
def _scan(path: Path, changed: int, size: int) -> _Index:
    """The index of a file; ``changed`` and ``size`` make a new one where the file is no longer the same."""
    with _readable(path), av.open(path) as container:
        stream = _video(path, container)
        packets = [packet for packet in container.demux(stream) if packet.size]
        whole = [packet.pts for packet in packets if not (packet.is_corrupt or packet.is_discard)]
        sound = len(whole) == len(packets) and stream.frames in (0, len(packets)) and None not in whole
        codec = stream.codec_context.codec.canonical_name
        width, height, rate = stream.width, stream.height, stream.average_rate or stream.guessed_rate
    times = whole if sound else _decodable(path)
    if not times or not rate:
        raise UserError(f"{path} holds no frame that can be read.")
    known = tuple(sorted(time for time in times if time is not None))
    info = VideoInfo(len(times), float(rate), width, height)
    return _Index(info, known if len(set(known)) == len(times) else (), sound and codec in DECORD_CODECS)


def _decodable(path: Path) -> list[int | None]:
    """The times of the frames before the damage, if there is any; raises where not even one is readable."""
    times: list[int | None] = []
    try:
        for picture in _pictures(path):
            times.append(picture.pts)  # noqa: PERF401 - those before the damage must stay
    except UserError:
        if not times:
            raise
    return times


def _video(path: Path, container: Any) -> Any:
    if not container.streams.video:
        raise UserError(f"{path} holds no video, only something else.")
    return container.streams.video[0]


@contextmanager
def _readable(path: Path, where: Callable[[], str] = str) -> Iterator[None]:
    """Turns FFmpeg's complaints into a sentence about the file."""
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        raise UserError(f"{path} is damaged{where()} or is no video ({error.strerror or error}).") from error
