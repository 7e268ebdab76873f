"""What a video starts with: a picture, or the end of another video, fitted to the model's size and rate."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rollforge.data.clips import cover
from rollforge.errors import UserError
from rollforge.safe_files import check_size, listed
from rollforge.video import SUFFIXES as VIDEOS

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # whatever the name says; others start programs
Frames = NDArray[np.uint8]


def read_openings(opening: str | None, videos: int) -> list[Path | None]:
    """The opening of each video. Raises ``UserError`` where there is none, or not one for each."""
    if opening is None:
        return [None] * videos
    path = Path(opening)
    if os.path.isdir(path):
        files = listed(path, PICTURES + VIDEOS, "opening")
        if len(files) != videos:
            raise UserError(f"data.opening: {path} holds {len(files)} pictures and videos for {videos} prompts.")
        return [*files]
    if not os.path.isfile(path):
        raise UserError(f"data.opening: there is no file or folder {path}; expected a picture or a video.")
    if path.suffix.lower() not in PICTURES + VIDEOS:
        raise UserError(
            f"data.opening: {path} is no picture or video by its name; expected {', '.join(VIDEOS)} or .png."
        )
    return [path] * videos


def opening_frames(path: Path, size: tuple[int, int], fps: float, most: int) -> Frames:
    """The picture, or the last frames of the video at ``fps``, uint8 ``[T, height, width, 3]``, at most ``most``.

    Frames are scaled to cover ``size`` (width, height) and cropped at the centre. A video is brought to ``fps`` by
    taking, for each moment counted back from its last frame, the frame that is shown then.

    Raises:
        UserError: for a file that cannot be read.
    """
    if path.suffix.lower() in PICTURES:
        return cover(_picture(path)[None], (size[1], size[0]))
    from rollforge.video.reader import read_at, times

    last = float(times(path)[-1])
    count = min(most, 1 + int(last * fps + 1e-6))
    return cover(read_at(path, [last - n / fps for n in reversed(range(count))]), (size[1], size[0]))


def _picture(path: Path) -> Frames:
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            check_size(path, *image.size)
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"The picture {path} cannot be read ({error}); expected a PNG or JPEG.") from error
