"""The worker of ``test_videos``: takes damages line by line, and says what came of each file.

It is a process of its own: FFmpeg is C, and what kills it must not take the other tests along.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import av
import numpy as np
from damage import damaged
from watch import ERROR, RESULT, answered, watched

from rollforge.data.clips import VideoClips
from rollforge.data.opening import opening_frames
from rollforge.video.reader import frames, probe, read_clip

MOST = 1000  # frames of which a file of a few kilobytes may be made


def came_of(path: Path, start: int, count: int) -> str:
    """Reads a file in every way; what one way answers must agree with the others."""
    outcomes: list[str] = []
    known: list[Any] = []
    shown: list[Any] = []
    outcomes.append(answered(lambda: probe(path), known.append))
    outcomes.append(answered(lambda: list(frames(path)), shown.extend))
    if known:
        info = known[0]
        assert 0 < info.frames <= MOST
        assert 0 < info.fps <= 1000
        assert info.width * info.height < 1 << 26
        if outcomes[-1] == RESULT:
            assert all(frame.shape == (info.height, info.width, 3) for frame in shown)
            assert len(shown) <= packets(path)

    def cut(clip: Any) -> None:
        assert clip.shape == (count, known[0].height, known[0].width, 3)
        if len(shown) == known[0].frames:  # the two conversions of colour differ a little
            apart = np.abs(clip.astype(int) - np.stack(shown[start : start + count]))
            assert apart.mean() < 8, f"a clip from frame {start} shows something else ({apart.mean():.0f})"

    outcomes.append(answered(lambda: read_clip(path, start, count, backend="pyav"), cut))
    outcomes.append(answered(lambda: read_clip(path, start, count), lambda clip: clip.shape[0] == count))
    outcomes.append(answered(lambda: opening_frames(path, (32, 16), 8.0, 5), opened))
    outcomes.append(answered(lambda: VideoClips(str(path.parent), 3, (16, 32))[0]["video"].numpy(), opened))
    return ERROR if ERROR in outcomes else RESULT


def opened(video: Any) -> None:
    assert video.dtype == np.uint8
    assert 1 <= video.shape[0] <= 5
    assert video.shape[1:] == (16, 32, 3)


def packets(path: Path) -> int:
    with av.open(path, metadata_errors="replace") as container:
        return sum(1 for packet in container.demux(container.streams.video[0]) if packet.size)


def serve(folder: Path, goods: list[bytes]) -> None:
    """Answers each line of standard input with one of standard output."""
    send("ready")  # what comes before takes seconds, and is no part of any input
    for number, line in enumerate(sys.stdin):
        asked = json.loads(line)
        path = folder / f"{number}.mp4"
        path.write_bytes(damaged(goods[asked["good"]], asked["made"]))
        try:
            with watched():
                answer = {"outcome": came_of(path, asked["start"], asked["count"])}
        except Exception:
            answer = {"fault": traceback.format_exc()}
        path.unlink()
        send(answer)


def send(answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    av.logging.set_level(None)
    serve(Path(sys.argv[1]), [Path(each).read_bytes() for each in sys.argv[2:]])
