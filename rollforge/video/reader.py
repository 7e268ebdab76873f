"""Reads videos: PyAV is the reader of record; decord, where it is installed, cuts random clips faster.

A container's own frame count is never believed: decord waits for ever for frames that a header only promises, so it
gets a file only when the packets were counted and agree. Nor does it get codecs in which it is silently two frames off
after a seek (MPEG-4 with B-frames, HEVC with open groups of pictures).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from rollforge.errors import UserError
from rollforge.video.index import Index, VideoInfo, check, index, pictures

__all__ = ["Backend", "VideoInfo", "frames", "probe", "read_clip"]

Backend = Literal["auto", "decord", "pyav"]
Frames = NDArray[np.uint8]
CLIP = 1 << 33  # bytes of a clip that is read at once

EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def probe(path: str | Path) -> VideoInfo:
    """Counts the frames of a video, by its packets, or by decoding it where the packets are in doubt.

    Raises:
        UserError: for a file that is missing, empty, damaged or no video.
    """
    return index(path).info


def frames(path: str | Path) -> Iterator[Frames]:
    """Every frame of a video in order, RGB uint8 ``[H, W, 3]``, converted with exact rounding.

    Raises:
        UserError: for a file that is missing, empty, damaged or no video.
    """
    check(path)
    for picture in pictures(Path(path)):
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
        UserError: for a clip outside the video or larger than 8 GiB, a file that cannot be read, or a backend that is
            not installed.
    """
    known = index(path)
    if start < 0 or count < 1 or stride < 1 or start + (count - 1) * stride >= known.info.frames:
        raise UserError(
            f"{path} has {known.info.frames} frames, so no clip of {count} from frame {start}, every {stride}."
        )
    if (size := 3 * count * known.info.width * known.info.height) > CLIP:
        raise UserError(
            f"{path}: {count} frames of {known.info.width} x {known.info.height} pixels take {size / 2**30:.1f} GiB; "
            f"expected at most {CLIP >> 30}, so take fewer, or scale the video down."
        )
    wanted = range(start, start + count * stride, stride)
    clip = _with_decord(Path(path), known, wanted, backend) if backend != "pyav" else None
    return _with_pyav(Path(path), known, wanted) if clip is None else clip


def _with_decord(path: Path, known: Index, wanted: range, backend: Backend) -> Frames | None:
    """The clip, or None where ``auto`` should turn to PyAV."""
    try:
        import decord

        reason = f"decord cannot be trusted with {path}"
        reader = decord.VideoReader(str(path), num_threads=1) if known.for_decord else None
        if reader and len(reader) == known.info.frames:
            return np.asarray(reader.get_batch(list(wanted)).asnumpy(), np.uint8)
    except ImportError:
        reason = "decord is not installed (pip install decord)"
    except (decord.DECORDError, RuntimeError):
        reason = f"decord cannot read {path}"
    if backend == "decord":
        raise UserError(f"{reason}; choose the backend 'pyav'.")
    return None


def _with_pyav(path: Path, known: Index, wanted: range) -> Frames:
    clip = np.empty((len(wanted), known.info.height, known.info.width, 3), np.uint8)
    if not known.times:
        for number, picture in enumerate(pictures(path)):
            if number in wanted:
                clip[wanted.index(number)] = _fitting(picture, path, known)
        return clip
    slots = {known.times[number]: slot for slot, number in enumerate(wanted)}
    last = max(slots)
    for seek in (known.times[wanted[0]], None):  # once more from the start, where seeking lands too late
        left = dict(slots)
        for picture in pictures(path, seek):
            time = picture.pts
            if time is not None and time in left:
                clip[left.pop(time)] = _fitting(picture, path, known)
            if not left or (time is not None and time > last):
                break
        if not left:
            return clip
    raise UserError(f"{path} is damaged: {len(left)} frames of the clip cannot be decoded.")


def _fitting(picture: av.VideoFrame, path: Path, known: Index) -> Frames:
    """A picture of the size that the file has told."""
    if (picture.width, picture.height) != (known.info.width, known.info.height):
        raise UserError(f"{path} changes its size to {picture.width} x {picture.height}; cut it there, or convert it.")
    return _rgb(picture)


def _rgb(picture: av.VideoFrame, **how: Any) -> Frames:
    return np.asarray(picture.to_ndarray(format="rgb24", **how), np.uint8)
