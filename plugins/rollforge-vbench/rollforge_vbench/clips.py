"""Where VBench-Long cuts a video, and the same cut made here without a second lossy encoding.

Read in its code: a clip has ``int(fps) * int(seconds)`` frames. The last clip is moved forward until it is as long as
the others. A video shorter than one clip is one clip, called ``full``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from rollforge.errors import UserError
from rollforge.video.reader import VideoInfo, frames

Frame = NDArray[np.uint8]
SECONDS = 2  # VBench-Long's length for custom videos, and for most dimensions of the standard suite
LONG_SECONDS = {"human_action": 10, "temporal_style": 10, "overall_consistency": 10}  # and for the others


def ranges(total: int, fps: float, seconds: int) -> list[range]:
    """The frames of each clip of a video with ``total`` frames.

    Raises:
        UserError: for less than one frame a second.
    """
    length = int(fps) * seconds
    if length < 1:
        raise UserError(f"Clips of {seconds} s at {fps:g} frames a second have no frame; ask for longer ones.")
    if total < length:
        return [range(total)]
    starts = [*range(0, total - length + 1, length)]
    if total % length:
        starts.append(total - length)
    return [range(start, start + length) for start in starts]


def cut(video: Path, info: VideoInfo, seconds: int, folder: Path, name: str) -> list[str]:
    """Writes the clips of a video, each frame exactly as it is, as ``<name>_000.mp4``, ... into ``folder``.

    Only the frames of two clips are held at a time. Returns the file names.
    """
    clips = ranges(info.frames, info.fps, seconds)
    folder.mkdir(parents=True)
    whole = info.frames < int(info.fps) * seconds
    names = [f"{name}_full.mp4"] if whole else [f"{name}_{number:03d}.mp4" for number in range(len(clips))]
    kept: dict[int, Frame] = {}
    waiting = list(zip(clips, names, strict=True))
    for number, frame in enumerate(frames(video)):
        kept[number] = frame
        while waiting and number == waiting[0][0].stop - 1:
            clip, file = waiting.pop(0)
            _write(folder / file, [kept[index] for index in clip], int(info.fps))
            kept = {index: kept[index] for index in kept if waiting and index >= waiting[0][0].start}
    return names


def _write(path: Path, clip: Sequence[Frame], fps: int) -> None:
    """One clip, H.264 without loss, in RGB."""
    high, wide, _ = clip[0].shape
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264rgb", rate=fps, options={"qp": "0", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = wide, high, "rgb24"
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
