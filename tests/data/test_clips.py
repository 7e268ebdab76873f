"""Training clips from a folder of videos as people have them."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from rollforge.data.clips import VideoClips
from rollforge.errors import UserError
from rollforge.video.writer import VideoWriter


def video(path: Path, frames: int = 12, first: int = 0) -> Path:
    """Frames whose grey value is five times their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, (16, 16), 8, crf=0) as writer:
        writer.write(np.stack([np.full((16, 16, 3), 5 * n, np.uint8) for n in range(first, first + frames)]))
    return path


def numbers(clips: VideoClips, index: int) -> list[int]:
    return [round(float(frame.float().mean()) / 5) for frame in clips[index]["video"]]


def test_videos_come_in_natural_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("10.mp4", "2.mp4", "b/1.mp4", ".trash/3.mp4"):
        video(tmp_path / name)
    (tmp_path / "2.mp4").rename(tmp_path / "2.MP4")
    (tmp_path / "._2.mp4").write_bytes(b"\x00\x05\x16\x07" + bytes(100))
    clips = VideoClips(str(tmp_path), 12, (16, 16))
    assert [str(file.relative_to(tmp_path)) for file, _ in clips.starts] == ["2.MP4", "10.mp4", "b/1.mp4"]


def test_unreadable_videos_are_named_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    video(tmp_path / "a.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.mp4")
    with caplog.at_level(logging.WARNING):
        clips = VideoClips(str(tmp_path), 6, (16, 16))
    assert len(clips) == 2
    assert "bad.mp4" in caplog.text
    assert "pipe.mp4" in caplog.text or not hasattr(os, "mkfifo")
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(UserError, match=r"^VideoClips: .*bad.mp4 is damaged or is not a video"):
        VideoClips(str(tmp_path), 6, (16, 16))


def test_the_next_clip_takes_the_place_of_one_that_is_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever was asked for before: a resumed training must see the same clips."""
    damaged = video(tmp_path / "a.mp4", 24)
    content = damaged.read_bytes()
    pictures = content.rindex(b"mdat") + 4  # of the second half
    damaged.write_bytes(content[:pictures] + b"\xff" * (len(content) - pictures))
    video(tmp_path / "b.mp4", first=30)
    clips = VideoClips(str(tmp_path), 12, (16, 16))
    assert [(file.name, start) for file, start in clips.starts] == [("a.mp4", 0), ("a.mp4", 12), ("b.mp4", 0)]
    for _ in range(2):
        assert numbers(clips, 0) == list(range(12))
        assert numbers(clips, 1) == list(range(30, 42))
    assert caplog.text.count("It is left out") == 1
    with pytest.raises(IndexError):
        clips[3]


def test_captions_do_not_come_from_links_and_pipes(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    video(folder / "a.mp4")
    (tmp_path / "secret.txt").write_text("a secret")
    (folder / "a.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(UserError, match=r"^VideoClips: The caption .* is a link to"):
        VideoClips(str(folder), 6, (16, 16))[0]
    (folder / "a.txt").unlink()
    (folder / "a.txt").write_text("a ball\n")
    assert VideoClips(str(folder), 6, (16, 16))[0]["caption"] == "a ball"
