"""Reads videos: PyAV is the reader of record; decord, where it is installed, cuts random clips faster.

Frames come at an even rate, upright and with square pixels, whatever the file holds: where pictures do not come evenly,
each frame is the picture that is shown at its time. A container's own frame count is never believed.

decord waits forever for frames that only the header lists, opens other files that a playlist names, and turns or
stretches pictures as its version likes. So it gets a file only where its first bytes, its packets and its first picture
are all ordinary. Nor does it get codecs in which it is silently two frames off after a seek (MPEG-4 with B-frames, HEVC
with open groups of pictures).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from itertools import dropwhile
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from rollforge.errors import UserError
from rollforge.video.container import check, pictures
from rollforge.video.index import Index, VideoInfo, index

__all__ = ["Backend", "VideoInfo", "frames", "probe", "read_at", "read_clip", "stills", "times"]

Backend = Literal["auto", "decord", "pyav"]
Frames = NDArray[np.uint8]
CLIP = 1 << 33  # bytes of a clip that is read at once
AT_ONCE = 1 << 26  # bytes of stills that are read with one pass over the file
REORDERED = 32  # pictures that may lie between one and the key frame that it refers to; H.264 and HEVC allow 16

EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def probe(path: str | Path) -> VideoInfo:
    """Counts the frames of a video, by its packets, or by decoding it where the packets are in doubt.

    Raises:
        UserError: for a file that is missing, empty, damaged or not a video.
    """
    return index(path).info


def times(path: str | Path) -> NDArray[np.float64]:
    """When each picture of a video is shown, in seconds from the first one on.

    Raises:
        UserError: for a file that is missing, empty, damaged or not a video.
    """
    return index(path).timing.seconds


def frames(path: str | Path) -> Iterator[Frames]:
    """Every frame of a video in order, RGB uint8 ``[H, W, 3]``, converted with exact rounding.

    Where pictures do not come evenly, there are as many frames as pictures, at their mean rate; each is the picture
    that is shown in the middle of its time.

    Raises:
        UserError: for a file that is missing, empty, damaged or not a video.
    """
    check(path)
    known = index(path)
    wanted = iter(known.timing.even(np.arange(known.info.frames)).tolist())
    upcoming = next(wanted, None)
    for number, picture in enumerate(pictures(Path(path))):
        image = _shown(picture, Path(path), known, interpolation=EXACT) if number == upcoming else None
        while image is not None and number == upcoming:
            yield image
            upcoming = next(wanted, None)


def read_clip(path: str | Path, start: int, count: int, stride: int = 1, backend: Backend = "auto") -> Frames:
    """A clip out of the middle, exact to the frame, the same from both backends.

    It uses FFmpeg's quick colour conversion, the one decord has (about one level darker than ``frames``).

    Args:
        path: the video.
        start: its first frame, counted as ``frames`` yields them.
        count: frames in the clip.
        stride: takes every n-th frame.
        backend: ``decord``, ``pyav``, or ``auto``: decord where it is installed and the file is regular.

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
    return _read(Path(path), known, known.timing.even(start + stride * np.arange(count)), backend)


def read_at(path: str | Path, seconds: Sequence[float], backend: Backend = "auto") -> Frames:
    """The pictures that are shown at these moments, which must rise, in seconds from the first picture on.

    Args:
        path: the video.
        seconds: the moments; one before the first picture shows the first, one after the last shows the last.
        backend: as in ``read_clip``.

    Returns:
        RGB, uint8 ``[len(seconds), H, W, 3]``, of the same colours as from ``read_clip``.

    Raises:
        UserError: as from ``read_clip``.
    """
    known = index(path)
    return _read(Path(path), known, known.timing.shown_at(np.asarray(seconds, np.float64)), backend)


def stills(path: str | Path, numbers: Sequence[int], backend: Backend = "auto") -> Iterator[Frames]:
    """Single frames, RGB uint8 ``[H, W, 3]``, of the same colours as from ``read_clip``.

    Args:
        path: the video.
        numbers: of the frames, rising, counted as ``frames`` yields them.
        backend: as in ``read_clip``.

    Raises:
        UserError: as from ``read_clip``.
    """
    known = index(path)
    shown = known.timing.even(np.asarray(numbers, np.int64))
    near = len(shown) and shown[-1] - shown[0] <= REORDERED * len(shown)  # else a seek for each is quicker
    count = max(1, AT_ONCE // (3 * known.info.width * known.info.height)) if near else 1
    for first in range(0, len(shown), count):
        yield from _read(Path(path), known, shown[first : first + count], backend)


def _read(path: Path, known: Index, numbers: NDArray[np.int64], backend: Backend) -> Frames:
    """The pictures of these numbers, which may repeat."""
    if (size := 3 * len(numbers) * known.info.width * known.info.height) > CLIP:
        raise UserError(
            f"{path}: {len(numbers)} frames of {known.info.width} x {known.info.height} pixels take "
            f"{size / 2**30:.1f} GiB; expected at most {CLIP >> 30}, so take fewer, or scale the video down."
        )
    wanted, places = np.unique(numbers, return_inverse=True)
    clip = _with_decord(path, known, wanted.tolist(), backend) if backend != "pyav" else None
    clip = _with_pyav(path, known, wanted.tolist()) if clip is None else clip
    return clip if len(wanted) == len(numbers) else clip[places]


def _with_decord(path: Path, known: Index, wanted: list[int], backend: Backend) -> Frames | None:
    """The clip, or None where ``auto`` should turn to PyAV."""
    try:
        import decord

        reason = f"decord cannot be trusted with {path}"
        reader = decord.VideoReader(str(path.absolute()), num_threads=1) if known.for_decord else None
        if reader and len(reader) == known.info.frames:
            return np.asarray(reader.get_batch(wanted).asnumpy(), np.uint8)
    except ImportError:
        reason = "decord is not installed (pip install decord)"
    except (decord.DECORDError, RuntimeError):
        reason = f"decord cannot read {path}"
    if backend == "decord":
        raise UserError(f"{reason}; choose the backend 'pyav'.")
    return None


def _with_pyav(path: Path, known: Index, wanted: list[int]) -> Frames:
    clip = np.empty((len(wanted), known.info.height, known.info.width, 3), np.uint8)
    left = {number: slot for slot, number in enumerate(wanted)}
    for first in _starts(known, wanted[0]):
        left = {number: slot for slot, number in enumerate(wanted)}
        with suppress(UserError) if first else nullcontext():
            for number, picture in _numbered(path, known, first):
                if number in left:
                    clip[left.pop(number)] = _shown(picture, path, known)
                if not left or number > wanted[-1]:
                    break
        if not left:
            return clip
    raise UserError(f"{path} is damaged: {len(left)} frames of the clip cannot be decoded.")


def _starts(known: Index, first: int) -> list[int]:
    """Pictures to seek to, for ``first``: where a seek lands too late or amid what it cannot decode, an earlier one."""
    return sorted({first, max(0, first - REORDERED), 0}, reverse=True) if known.times else [0]


def _numbered(path: Path, known: Index, first: int) -> Iterator[tuple[int, av.VideoFrame]]:
    """Pictures with their numbers, from the last key frame before picture ``first`` on; all of them if that is 0."""
    if not first:
        yield from enumerate(pictures(path))
        return
    numbers = {time: number for number, time in enumerate(known.times)}
    found = dropwhile(lambda picture: not picture.key_frame, pictures(path, known.times[first]))  # those refer back
    yield from ((numbers[picture.pts], picture) for picture in found if picture.pts in numbers)


def _shown(picture: av.VideoFrame, path: Path, known: Index, **how: Any) -> Frames:
    """A picture as it is shown, of the size that the file states."""
    if (picture.width, picture.height) != known.shape.stored:
        raise UserError(f"{path} changes its size to {picture.width} x {picture.height}; cut it there, or convert it.")
    return known.shape.show(picture, **how)
