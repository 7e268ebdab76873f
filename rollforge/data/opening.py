"""What a video starts with: an image, or the end of another video, fitted to the model's size and rate."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from rollforge.data.clips import cover
from rollforge.data.pictures import is_picture, read_picture
from rollforge.errors import UserError
from rollforge.files.reading import check_regular, listed
from rollforge.video import PICTURES
from rollforge.video import SUFFIXES as VIDEOS

MOST = 1 << 31  # bytes of the frames of an opening video, before they are scaled
Frames = NDArray[np.uint8]


def read_openings(opening: str | None, videos: int, names: Sequence[Sequence[str | None]] = ()) -> list[Path | None]:
    """The opening of each video. Raises ``UserError`` where there is none, or not one for each.

    Args:
        opening: an image, a video, or a folder of them.
        videos: how many are generated.
        names: lists of what each video may be called; None for one that is left out and has no name. Where files of
            the folder are called so, they go together by name; else the first goes with the first, in natural order.
    """
    if opening is None:
        return [None] * videos
    path = Path(opening)
    if os.path.isdir(path):
        files = listed(path, PICTURES + VIDEOS, "opening")
        together = next(filter(None, (_by_name(path, files, each) for each in names)), None)
        if together is None and len(files) != videos:
            raise UserError(f"data.opening: {path} holds {len(files)} pictures and videos for {videos} prompts.")
        return [*(together or files)]
    try:
        check_regular(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"data.opening: {path} cannot be used ({getattr(error, 'strerror', error)}); expected a picture or a video."
        ) from error
    if path.suffix.lower() not in PICTURES + VIDEOS:
        raise UserError(
            f"data.opening: {path} is not a picture or video by its name; expected one of "
            f"{', '.join(sorted({*PICTURES, *VIDEOS}))}, so convert it."
        )
    return [path] * videos


def opening_frames(path: Path, size: tuple[int, int], fps: float, most: int) -> Frames:
    """The image, or the last frames of the video at ``fps``, uint8 ``[T, height, width, 3]``, at most ``most``.

    Frames are scaled to cover ``size`` (width, height) and cropped at the centre. A video is brought to ``fps`` by
    taking, for each moment counted back from its last frame, the frame that is shown then.

    Raises:
        UserError: for a file that cannot be read.
    """
    if is_picture(path):
        return cover(read_picture(path)[None], (size[1], size[0]))
    from rollforge.video.reader import probe, read_at, times

    last = float(times(path)[-1])
    count = min(most, 1 + int(last * fps + 1e-6))
    info = probe(path)
    if (size_read := 3 * count * info.width * info.height) > MOST:
        raise UserError(
            f"The last {count} frames of {path}, {info.width} x {info.height} pixels each, take "
            f"{size_read / 2**30:.1f} GiB; expected at most {MOST >> 30}, so scale the video down, or take fewer with "
            "data.opening_seconds."
        )
    return cover(read_at(path, [last - n / fps for n in reversed(range(count))]), (size[1], size[0]))


def _by_name(folder: Path, files: Sequence[Path], names: Sequence[str | None]) -> list[Path | None] | None:
    """The file of each name; None where no file has any of them, or where a name is empty or repeats.

    Raises ``UserError`` where some names have a file and others not, or two.
    """
    known = {_plain(name): name for name in names if name}
    named: dict[str, list[Path]] = {}
    for file in files:
        named.setdefault(_plain(file.stem), []).append(file)
    if len(known) + names.count(None) < len(names) or not known.keys() & named.keys():
        return None
    for name, shown in known.items():
        if len(found := named.get(name, [])) != 1:
            what = f"holds {' and '.join(file.name for file in found)}" if found else "has nothing"
            raise UserError(
                f"data.opening: {folder} {what} for {shown!r:.80}, while others go with their prompts by name; "
                "expected one picture or video for each."
            )
    return [named[_plain(name)][0] if name else None for name in names]


def _plain(name: str) -> str:
    """Equal for names that look the same: macOS stores letters and their accents separately."""
    return normalize("NFC", name).casefold().strip()
