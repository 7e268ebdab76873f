"""What a video starts with: pictures and the ends of videos, at the model's size and rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rollforge.data.opening import opening_frames, read_openings
from rollforge.errors import UserError
from rollforge.lightning.data import RolloutData
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


@pytest.mark.parametrize(
    ("name", "expected"), [("none.mp4", "cannot be used .No such file"), ("text.txt", "not a picture or video")]
)
def test_what_cannot_open_a_video_is_said(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / "text.txt").write_text("x")
    with pytest.raises(UserError, match=expected):
        read_openings(str(tmp_path / name), 1)


def test_a_damaged_picture_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG nothing more")
    with pytest.raises(UserError, match="cannot be read"):
        opening_frames(tmp_path / "a.png", (8, 8), fps=8, most=1)


def _openings(folder: Path, *names: str) -> str:
    folder.mkdir()
    for name in names:
        Image.new("RGB", (8, 8)).save(folder / name)
    return str(folder)


def _paired(prompts: object, opening: str) -> dict[str, str]:
    requests = RolloutData(prompts=prompts, opening=opening, seconds=1).requests(8.0)  # type: ignore[arg-type]
    return {request.prompt: request.opening.name for request in requests if request.opening}


def test_openings_go_with_prompts_in_natural_order(tmp_path: Path) -> None:
    opening = _openings(tmp_path / "i", "10.png", "9.png", "11.PNG")
    assert _paired(["nine", "ten", "eleven"], opening) == {"nine": "9.png", "ten": "10.png", "eleven": "11.PNG"}


def test_openings_go_with_prompts_by_name(tmp_path: Path) -> None:
    opening = _openings(tmp_path / "i", "b.png", "A.jpg", "une pêche.webp", "spare.png")
    assert _paired(["A", "Une pe\u0302che", "b"], opening) == {
        "A": "A.jpg",
        "Une pe\u0302che": "une pêche.webp",
        "b": "b.png",
    }
    (tmp_path / "p").mkdir()
    for name in ("b", "a"):
        (tmp_path / "p" / f"{name}.txt").write_text(f"the prompt of {name}")
    assert _paired(str(tmp_path / "p"), opening) == {"the prompt of a": "A.jpg", "the prompt of b": "b.png"}
    (tmp_path / "p" / "c.txt").write_text("the prompt of c")
    with pytest.raises(UserError, match="has nothing for 'c', while others go with their prompts by name"):
        _paired(str(tmp_path / "p"), opening)
    _openings(tmp_path / "two", "a.png", "b.png", "b.jpg")
    with pytest.raises(UserError, match=r"holds b.jpg and b.png for 'b'"):
        _paired(["a", "b"], str(tmp_path / "two"))


def test_an_opening_too_large_to_decode_is_refused(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollforge.data.opening.MOST", 5 * 3 * 32 * 16)
    assert len(opening_frames(clip, (8, 8), fps=8, most=5)) == 5
    with pytest.raises(
        UserError, match=r"The last 6 frames of .*clip.mp4, 32 x 16 pixels each, take .*opening_seconds"
    ):
        opening_frames(clip, (8, 8), fps=8, most=6)
