from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scenes import number, numbered, smooth, write

from rollforge.errors import UserError
from rollforge.video.reader import frames, probe
from rollforge.video.sheet import MARK, ContactSheet, draw, save
from rollforge.video.side_by_side import side_by_side


@settings(max_examples=60, deadline=None)
@given(total=st.integers(1, 900), count=st.integers(1, 20), sizes=st.lists(st.integers(0, 50), min_size=1, max_size=30))
def test_a_sheet_picks_the_same_frames_however_they_come(total: int, count: int, sizes: list[int]) -> None:
    video, sheet = numbered(total, 1), ContactSheet("Window", total, 16, count)
    start, turn = 0, 0
    while start < total:
        size = sizes[turn % len(sizes)] or turn % 2
        sheet.add(video[start : start + size])
        start, turn = start + size, turn + 1
    assert [number(image) for image in sheet.images] == sheet.picks
    assert len(sheet.picks) == min(count, total)
    assert sheet.picks[0] == 0
    assert sheet.picks[-1] == (total - 1 if count > 1 else 0)
    steps = np.diff(sheet.picks)
    assert not steps.size or steps.max() - steps.min() <= 1
    assert all(image.base is None for image in sheet.images), "a view would keep the whole block in memory"


def red(page: Image.Image) -> int:
    return int((np.asarray(page) == MARK).all(-1).sum())


def sheet(label: str, count: int = 40) -> ContactSheet:
    made = ContactSheet(label, 40, 8)
    made.add(smooth(count, 64, 32))
    return made


def test_rows_share_their_times_and_the_horizon_is_marked(tmp_path: Path) -> None:
    rows = [sheet("Window"), sheet("RollingSink")]
    plain, marked = draw(rows, "a red ball"), draw(rows, "a red ball", horizon=2.0)
    assert red(plain) == 0 < red(marked)
    assert red(draw(rows, "a red ball", horizon=100.0)) == 0
    assert draw(rows[:1], "a red ball").height < plain.height < draw(rows, "a red ball over grass " * 30).height
    save(marked, tmp_path / "sheet.png")
    assert [file.name for file in tmp_path.iterdir()] == ["sheet.png"]
    assert Image.open(tmp_path / "sheet.png").size == marked.size
    with pytest.raises(UserError, match="cannot be written"):
        save(marked, tmp_path / "nowhere" / "sheet.png")


def test_tiny_frames_stay_crisp_large_ones_shrink() -> None:
    tiny = sheet("Window")
    page = np.asarray(draw([tiny], ""))
    large = tiny.images[0].repeat(2, 0).repeat(2, 1)
    left = page.shape[1] - 16 - 12 * (large.shape[1] + 4) + 4
    assert np.array_equal(page[66 : 66 + large.shape[0], left : left + large.shape[1]], large)
    large_frames = ContactSheet("Window", 12, 8)
    large_frames.add(np.zeros((12, 480, 832, 3), np.uint8))
    assert draw([large_frames], "").width < 2800


def test_a_sheet_of_a_video_that_ended_early_or_never_began() -> None:
    draw([sheet("Window", count=15), sheet("RollingSink")], "a red ball", 2.0)
    for rows in ([], [sheet("Window", 0)], [sheet("Window"), ContactSheet("RollingSink", 41, 8)]):
        with pytest.raises(UserError, match="the same times"):
            draw(rows, "a red ball")
    with pytest.raises(UserError, match="needs frames"):
        ContactSheet("Window", 0, 8)


def test_side_by_side(tmp_path: Path) -> None:
    left, right = write(tmp_path / "left.mp4", smooth(30), 8), write(tmp_path / "right.mp4", 255 - smooth(20), 8)
    side_by_side((left, right), ("Window", "RollingSink"), tmp_path / "both.mp4", horizon=1.5)
    info = probe(tmp_path / "both.mp4")
    assert (info.frames, info.fps) == (30, 8)
    pages = np.stack(list(frames(tmp_path / "both.mp4"))).astype(int)
    scale, middle = 3, 40 + 64 * 3 // 2
    assert np.abs(pages[10, middle, 30] - smooth(30)[10, (middle - 36) // scale, 10]).max() < 12
    assert np.abs(pages[10, middle, 288 + 8 + 30] - (255 - smooth(30))[10, (middle - 36) // scale, 10]).max() < 12
    assert (pages[25, middle, 320:] > 250).all(), "the video that ended leaves its place blank"
    reddish = (pages[..., 0] - pages[..., 1] > 90)[:, -32:].sum((1, 2))
    assert reddish[:13].max() < reddish[14:].min(), "the clock turns red past the horizon"


def test_side_by_side_needs_two_of_a_kind(tmp_path: Path) -> None:
    one = write(tmp_path / "one.mp4", smooth(4), 8)
    for other in (write(tmp_path / "fps.mp4", smooth(4), 16), write(tmp_path / "size.mp4", smooth(4, 32, 64), 8)):
        with pytest.raises(UserError, match="differ in size or frame rate"):
            side_by_side((one, other), ("a", "b"), tmp_path / "both.mp4")
    assert not (tmp_path / "both.mp4").exists()
