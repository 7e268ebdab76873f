"""Names, clips and refusals before anything is scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rollforge_vbench.clips import cut, ranges
from rollforge_vbench.job import Job
from rollforge_vbench.prepare import prepare
from rollforge_vbench.sources import find

from rollforge.errors import UserError
from rollforge.video.reader import frames, probe

Make = Callable[..., Path]


@pytest.mark.parametrize(
    ("total", "fps", "clips"),
    [
        (32, 8, [(0, 16), (16, 32)]),
        (40, 8, [(0, 16), (16, 32), (24, 40)]),  # the last one borrows
        (16, 8, [(0, 16)]),
        (10, 8, [(0, 10)]),
        (33, 8.9, [(0, 16), (16, 32), (17, 33)]),  # the rate is rounded down
    ],
)
def test_clips_lie_where_vbench_long_cuts(total: int, fps: float, clips: list[tuple[int, int]]) -> None:
    assert [(clip.start, clip.stop) for clip in ranges(total, fps, 2)] == clips


def test_a_cut_keeps_every_frame_as_it_is(tmp_path: Path, video: Make) -> None:
    source = video(tmp_path / "v.mp4")
    names = cut(source, probe(source), 2, tmp_path / "clips", "v")
    assert names == ["v_000.mp4", "v_001.mp4", "v_002.mp4"]
    whole = [frame.tobytes() for frame in frames(source)]
    for name, start in zip(names, (0, 16, 24), strict=True):
        assert [frame.tobytes() for frame in frames(tmp_path / "clips" / name)] == whole[start : start + 16]
        assert probe(tmp_path / "clips" / name).fps == 8


def test_names_have_no_underscore_and_say_which_video_they_are(tmp_path: Path, run_folder: Path) -> None:
    job = Job.asked([], "custom", long=True, cut=True)
    content = prepare(find([run_folder]), job, tmp_path / "into")
    assert json.loads((tmp_path / "into" / "prepared.json").read_text())["videos"] == content["videos"]
    names = [video["name"] for video in content["videos"]]
    assert names == ["0000-a-cat", "0001-a-dog-running", "0002-a-cat"]
    first = content["videos"][0]
    assert first["made"] == {"seed": 3, "sample": 0, "policy": "Window"}
    assert (first["fps"], first["frames"], first["size"], first["codec"]) == (8, 40, [32, 16], "h264")
    assert len(first["sha256"]) == 64
    assert first["clips"] == 3
    clips = tmp_path / "into" / "videos" / "split_clip" / "0001-a-dog-running"
    assert sorted(file.name for file in clips.iterdir()) == [f"0001-a-dog-running_00{n}.mp4" for n in range(3)]
    prepare(find([run_folder]), Job.asked([], "custom"), tmp_path / "into")  # in place of what was made here before
    assert not clips.exists()
    assert sorted(file.suffix for file in (tmp_path / "into" / "videos").iterdir()) == [".mp4"] * 3


def test_names_of_the_standard_suite_count_the_videos_of_a_prompt(tmp_path: Path, run_folder: Path) -> None:
    prepare(find([run_folder]), Job.asked(["scene"], "standard"), tmp_path / "into")
    names = sorted(file.name for file in (tmp_path / "into" / "videos").iterdir())
    assert names == ["a cat-0.mp4", "a cat-1.mp4", "a dog, running-0.mp4"]


def test_lengths_of_clips_are_those_that_were_asked(tmp_path: Path, run_folder: Path) -> None:
    prepare(find([run_folder]), Job.asked([], "standard", long=True), tmp_path / "own")
    lines = (tmp_path / "own" / "clip-lengths.yaml").read_text().splitlines()
    assert "human_action: 10.0" in lines
    assert "scene: 2.0" in lines
    prepare(find([run_folder]), Job.asked([], "standard", long=True, clip_seconds=1), tmp_path / "one")
    assert "human_action: 1.0" in (tmp_path / "one" / "clip-lengths.yaml").read_text()


def test_a_folder_of_files_takes_prompts_from_a_file_or_its_names(tmp_path: Path, video: Make) -> None:
    for name in ("one.mp4", "two.mp4", "three.partial.mp4"):
        video(tmp_path / name)
    (tmp_path / "prompts.json").write_text(json.dumps({"two.mp4": "a cat"}))
    assert [v.prompt for v in find([tmp_path], prompts=tmp_path / "prompts.json")] == ["one", "a cat"]


def test_unfinished_and_mixed_runs_are_refused(run_folder: Path) -> None:
    manifest = run_folder / "manifest.json"
    content = json.loads(manifest.read_text())
    content["videos"][1]["policy"] = "RollingSink"
    manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match="RollingSink and Window, which cannot share one score"):
        find([run_folder])
    assert len(find([run_folder], policy="Window")) == 2
    with pytest.raises(UserError, match="Did you mean 'Window'"):
        find([run_folder], policy="window")
    content["videos"][2]["complete"] = False
    manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match="not finished"):
        find([run_folder], policy="Window")


def test_one_clip_alone_is_refused_because_vbench_long_would_count_0(tmp_path: Path, video: Make) -> None:
    video(tmp_path / "short.mp4", frames=16)
    with pytest.raises(UserError, match="only one clip of 2 s"):
        Job.asked(["subject_consistency"], "custom", long=True).check(find([tmp_path]))
    assert Job.asked(["imaging_quality"], "custom", long=True).check(find([tmp_path])) == []


@pytest.mark.parametrize(
    ("names", "mode", "flags", "words"),
    [
        (["scene"], "custom", {}, "no scene for videos of any prompt"),
        ([], "custom", {"cut": True}, "add --long"),
        ([], "custom", {"long": True, "clip_seconds": 5}, "add --cut"),
        ([], "standard", {"long": True, "cut": True}, "temporal_flickering"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(names, mode, flags, words) -> None:
    with pytest.raises(UserError, match=words):
        Job.asked(names, mode, **flags)


def test_places_and_prompts_that_vbench_would_take_apart_are_refused(tmp_path: Path, video: Make) -> None:
    video(tmp_path / "a_b.mp4")
    with pytest.raises(UserError, match="cannot be a file name"):
        prepare(find([tmp_path]), Job.asked([], "standard"), tmp_path / "into")
    with pytest.raises(UserError, match="takes paths apart"):
        prepare(find([tmp_path]), Job.asked([], "custom"), tmp_path / "split_clip")
    with pytest.raises(UserError, match="holds other files"):
        prepare(find([tmp_path]), Job.asked([], "custom"), tmp_path)
