"""Which clips of a video are positives, and what is message of a video that has none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rollforge_persistence.clips import VideoPairs, WorldPairs, times
from rollforge_persistence.moco import MoCo
from rollforge_persistence.views import augmented

from rollforge.data import WorldClips
from rollforge.data.world import Scene, render
from rollforge.errors import UserError
from rollforge.video.writer import VideoWriter


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A video of 30 frames whose brightness is the frame's number times 8."""
    video = np.repeat(np.arange(30, dtype=np.uint8)[:, None, None, None] * 8, 64 * 64 * 3).reshape(30, 64, 64, 3)
    with VideoWriter(tmp_path / "grey.mp4", (64, 64), 8.0) as writer:
        writer.write(video)
    return tmp_path


@pytest.mark.parametrize("gap", [0, 5, None])
def test_clips_start_within_the_gap_and_inside_the_video(gap: int | None) -> None:
    drawn = np.random.default_rng(0)
    found = [times(40, 4, 2, 3, gap, drawn) for _ in range(300)]
    starts = np.array([[each.start for each in clips] for clips in found])
    assert {len(each) for clips in found for each in clips} == {4}
    assert starts.min() == 0
    assert max(each[-1] for clips in found for each in clips) == 39
    assert (starts.max(1) - starts.min(1)).max() == (33 if gap is None else gap)


def test_the_worlds_clips_are_frames_of_one_video() -> None:
    pairs = WorldPairs(rho=2, gap=3, frames=20)
    clip = pairs[5]
    drawn = np.random.default_rng((0, 5))
    scene = pairs.scenes[drawn.integers(len(pairs.scenes))]
    shown = [time for each in times(20, 4, 2, 2, 3, drawn) for time in each]
    whole, _ = render(scene, int(drawn.integers(2**31)), 20, tinted=False)
    assert clip["caption"] == scene.caption
    assert np.array_equal(clip["video"].numpy(), whole[shown])
    assert {each.caption for each in pairs.scenes} == {each.caption for each in WorldClips().scenes}


def test_shown_frames_are_those_of_the_complete_clip() -> None:
    scene = Scene.parse("a red ball over sand at day")
    whole, truth = render(scene, 3, 12)
    some, own = render(scene, 3, 12, shown=[11, 4])
    assert np.array_equal(some, whole[[11, 4]])
    assert np.array_equal(own.centres, truth.centres[[11, 4]])


def test_a_folder_gives_clips_of_each_video(folder: Path) -> None:
    pairs = VideoPairs(folder, rho=2, gap=4)
    assert len(pairs) == 1
    levels = pairs[0]["video"].float().mean((1, 2, 3)) / 8
    first, second = levels[:4].round(), levels[4:].round()
    assert first.diff().tolist() == second.diff().tolist() == [2, 2, 2]
    assert abs(first[0] - second[0]) <= 4


def test_a_video_that_cannot_be_read_is_named_once_and_replaced(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "a.mp4").write_bytes((folder / "grey.mp4").read_bytes())
    pairs = VideoPairs(folder, gap=4)
    (folder / "a.mp4").write_bytes(b"no video" * 100)
    assert [Path(pairs[n]["source"]).name for n in (0, 0, 1)] == ["grey.mp4"] * 3
    assert caplog.text.count("a.mp4") == caplog.text.count("left out of the training clips") == 1
    (folder / "grey.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="not one of the videos can be read"):
        pairs[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: WorldPairs(gap=20, frames=20), "a video of 20 frames is shorter than a clip of 4"),
        (lambda folder: VideoPairs(folder, gap=200), "holds no clip of 207 frames in 1 videos"),
        (lambda folder: VideoPairs(folder / "none"), "there is no folder"),
        (lambda folder: VideoPairs(_empty(folder)), "holds no clip of 7 frames in 0 videos"),
    ],
)
def test_videos_that_are_too_short_or_absent_are_refused(folder: Path, make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(folder)  # type: ignore[operator]


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def test_all_frames_of_a_clip_change_alike_and_each_clip_otherwise() -> None:
    torch.manual_seed(0)
    still = torch.rand(1, 1, 3, 64, 64).expand(2, 4, 3, 64, 64)
    seen = augmented(still)
    assert seen.shape == still.shape
    assert seen.min() >= 0
    assert seen.max() <= 1
    assert torch.allclose(seen[:, :1].expand_as(seen), seen, atol=1e-6)
    assert (seen[0] - seen[1]).abs().mean() > 0.02


def test_one_clip_is_seen_twice_and_others_once() -> None:
    module = MoCo(width=16, hidden=4, out=2, queue=4)
    video = torch.randint(0, 256, (2, 4, 64, 64, 3), dtype=torch.uint8)
    assert [len(module.views(each)) for each in (video, video.repeat(1, 2, 1, 1, 1), video.repeat(1, 4, 1, 1, 1))] == [
        2,
        2,
        4,
    ]
    with pytest.raises(UserError, match="6 frames of a video are not complete clips of 4"):
        module.views(torch.cat([video, video[:, :2]], 1))
