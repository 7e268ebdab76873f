"""The container around a video: opened without following it elsewhere, and decoded picture by picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from rollforge.errors import UserError
from rollforge.files.reading import PIXELS, check_regular, check_size

FORMATS = "mov,mp4,m4a,3gp,matroska,webm,avi,mpeg,mpegts,ogg,flv,gif,apng,h264,hevc,ivf,wav"  # no lists of other files
OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
STRICT = {
    "max_pixels": str(PIXELS),  # a stream may grow beyond its header
    "err_detect": "explode",  # else what is damaged is painted over, and passes for a picture
}


def pictures(path: Path, seek: int | None = None) -> Iterator[av.VideoFrame]:
    """Decoded pictures, from the last key frame before ``seek`` on."""
    done = 0
    with readable(path, lambda: f" after frame {done}" if done else ""), open_video(path) as container:
        stream = film(path, container)
        if seek is not None:
            container.seek(seek, stream=stream)
        for picture in container.decode(stream):
            yield picture
            done += 1
    if not done and seek is None:
        raise UserError(f"{path} holds no frame that can be read.")


def check(path: str | Path) -> tuple[int, int]:
    """When the file was changed, and its size; raises where there is nothing to read."""
    try:
        stat = check_regular(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    if not stat.st_size:
        raise UserError(f"{path} is empty; a video file was expected.")
    return stat.st_mtime_ns, stat.st_size


def open_video(path: Path) -> Any:
    """Opens a file by its absolute path, in which no colon of a name is taken for the end of a protocol."""
    return av.open(path.absolute(), options=dict(OPTIONS), metadata_errors="replace")


def film(path: Path, container: Any) -> Any:
    """The video stream that a player shows, which is not a cover picture, with frames of a sane size.

    Raises:
        UserError: where there is none.
    """
    cover = Disposition.attached_pic | Disposition.timed_thumbnails
    films = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not films:
        raise UserError(f"{path} holds no video, only something else.")
    best = container.streams.best("video")
    stream = best if best in films else films[0]
    if stream.codec_context is None:
        raise UserError(f"{path} is in a format that FFmpeg cannot decode; convert it to H.264.")
    check_size(path, stream.width, stream.height)
    stream.codec_context.options = dict(STRICT)
    return stream


@contextmanager
def readable(path: Path, where: Callable[[], str] = str) -> Iterator[None]:
    """Turns FFmpeg's complaints into a sentence about the file."""
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        if isinstance(error, PermissionError):
            raise UserError(f"The video {path} cannot be read (Permission denied).") from error
        raise UserError(f"{path} is damaged{where()} or is not a video ({error.strerror or error}).") from error
