"""The tool of LongVT: ``crop_video(video_path, start_time, end_time)``, and what it refuses."""

from __future__ import annotations

from math import isfinite
from typing import Any

from rollforge_inspect.video import Look, Video

NAME = "crop_video"
ARGUMENTS = ("start_time", "end_time")


class ToolError(Exception):
    """Why a call was refused: a sentence for the thinker, which may call again."""


def crop_video(video: Video, start_time: Any, end_time: Any) -> Look:
    """Frames of a window, one a second, 128 at most. Raises ``ToolError`` for a window that is not in the video."""
    start, end = number("start_time", start_time), number("end_time", end_time)
    if start < 0:
        raise ToolError(f"start_time {start:g} must not be below 0.")
    if end <= start:
        raise ToolError(f"end_time {end:g} must be above start_time {start:g}.")
    if start >= video.seconds:
        raise ToolError(f"start_time {start:g} must be below the video's length of {video.seconds:g} s.")
    if end > video.seconds:
        raise ToolError(f"end_time {end:g} must not be above the video's length of {video.seconds:g} s.")
    return video.look(start, end)


def number(name: str, value: Any) -> float:
    """A finite number. Raises ``ToolError`` for anything else."""
    try:
        found = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else float("nan")
    except OverflowError:
        found = float("inf")
    if not isfinite(found):
        raise ToolError(f"{name} must be a number of seconds, not {value!r:.40}.")
    return found
