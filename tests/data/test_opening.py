"""What a video starts with: pictures and the ends of videos, at the model's size and rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rollforge.data.opening import opening_frames, read_openings
from rollforge.errors import UserError
from rollforge.video.writer import VideoWriter


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """48 frames at 24 a second whose grey value is five times their number."""
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, (32, 16), 24, crf=0) as writer:
        writer.write(np.stack([np.full((16, 32, 3), 5 * n, np.uint8) for n in range(48)]))
    return path


def test_the_end_of_a_video_is_taken_at_the_models_rate(clip: Path) -> None:
    taken = opening_frames(clip, (8, 8), fps=8, most=5)
    assert taken.shape == (5, 8, 8, 3)
    assert np.abs(taken[:, 0, 0, 0].astype(int) - [5 * n for n in (35, 38, 41, 44, 47)]).max() <= 1


def test_a_short_video_gives_what_it_has(clip: Path) -> None:
    taken = opening_frames(clip, (8, 8), fps=8, most=100)
    assert len(taken) == 16
    assert np.abs(taken[:, 0, 0, 0].astype(int) - [5 * n for n in range(2, 48, 3)]).max() <= 1


def test_a_picture_is_one_frame_cropped_at_its_centre(tmp_path: Path) -> None:
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, 10:30] = 200
    Image.fromarray(picture).save(tmp_path / "a.png")
    taken = opening_frames(tmp_path / "a.png", (20, 20), fps=8, most=9)
    assert taken.shape == (1, 20, 20, 3)
    assert (taken == 200).all()


def test_a_folder_has_one_for_each_prompt(tmp_path: Path, clip: Path) -> None:
    assert read_openings(str(clip), 2) == [clip, clip]
    assert read_openings(str(tmp_path), 1) == [clip]
    with pytest.raises(UserError, match="holds 1 pictures and videos for 2 prompts"):
        read_openings(str(tmp_path), 2)


@pytest.mark.parametrize(("name", "said"), [("none.mp4", "there is no file"), ("text.txt", "no picture or video")])
def test_what_cannot_open_a_video_is_said(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "text.txt").write_text("x")
    with pytest.raises(UserError, match=said):
        read_openings(str(tmp_path / name), 1)


def test_a_damaged_picture_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG nothing more")
    with pytest.raises(UserError, match="cannot be read"):
        opening_frames(tmp_path / "a.png", (8, 8), fps=8, most=1)
