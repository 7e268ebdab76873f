"""Videos of any tool: what is measured, what they show, and what is said of those that cannot be read."""

from __future__ import annotations

import json
import os
import re
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from plain_videos import Brightness, Fragile, ramp, write_video

from rollforge.cli import main
from rollforge.errors import UserError
from rollforge.evaluation.reading import enlarged, measure_file, picked
from rollforge.evaluation.video_folder import VideoFolder
from rollforge.metrics.curves import read_curves
from rollforge.metrics.suite import DriftSuite

Folder = Callable[..., Path]


def measure_at_once(video: np.ndarray, fps: float) -> dict[str, np.ndarray]:
    suite = DriftSuite()
    suite.start("a video", fps)
    return {name: curve.numpy() for name, curve in suite.update(torch.from_numpy(video), 0).items()}


def test_a_lossless_video_is_measured_as_its_frames_would_be(folder: Folder, tmp_path: Path) -> None:
    video = ramp(30)
    file = folder(clip=video) / "clip.mp4"
    entry, sheet = measure_file(file, "a video", [DriftSuite()], tmp_path / "clip.curves.csv")
    found = read_curves(tmp_path / "clip.curves.csv")
    expected = measure_at_once(video, 8.0)
    assert found.keys() == expected.keys() | {"frame", "seconds"}
    for name, curve in expected.items():
        np.testing.assert_allclose(found[name], curve, rtol=1e-5, atol=1e-6, err_msg=name)
    assert (entry["frames"], entry["fps"], entry["measured_from"]) == (30, 8, "file")
    assert np.array_equal(np.stack(sheet.images), video[sheet.picks])


def test_memory_does_not_grow_with_the_video(tmp_path: Path) -> None:
    """What Python and numpy hold, after a third of a video and at its end."""
    file = write_video(tmp_path / "long.mp4", np.tile(ramp(30), (50, 1, 1, 1)))
    held: list[int] = []

    def look() -> None:
        if len(held) in (40, 124):
            tracemalloc.reset_peak()
        held.append(tracemalloc.get_traced_memory()[1])

    tracemalloc.start()
    measure_file(file, "a video", [Brightness()], tmp_path / "long.curves.csv", exit_if_requested=look)
    tracemalloc.stop()
    assert len(held) == 125
    assert held[123] < held[60] + 50_000


def test_an_enlarged_video_is_measured_at_its_own_size(tmp_path: Path) -> None:
    video = ramp(6)
    file = write_video(tmp_path / "large.mp4", video, scale=4)
    measure_file(file, "a video", [DriftSuite()], tmp_path / "c.curves.csv", size=(24, 16))
    found, expected = read_curves(tmp_path / "c.curves.csv"), measure_at_once(video, 8.0)
    np.testing.assert_allclose(found["detail"], expected["detail"], rtol=1e-5)
    assert np.array_equal(np.stack(picked(file, "a", (24, 16)).images), video)
    assert [enlarged((24, 16), found) for found in ((96, 64), (96, 32), (90, 64), (24, 16))] == [4, 1, 1, 1]
    assert enlarged(None, (96, 64)) == 1


def test_prompts_come_from_the_manifest_a_text_file_or_the_name(folder: Folder, tmp_path: Path) -> None:
    ours = {"half.partial": ramp(3), "two.side-by-side": ramp(3), "two.beside": ramp(3)}  # codespell:ignore beside
    there = folder(known=ramp(3), listed=ramp(3), bare=ramp(3), **ours)
    (there / "listed.txt").write_text("a told thing\n")
    known = {"file": "known.mp4", "prompt": "a known thing", "seed": 5, "sample": 2, "policy": "Window"}
    (there / "manifest.json").write_text(json.dumps({"videos": [known]}))
    given = VideoFolder(there)
    assert {file.name: given.prompt(file) for file in given.files} == {
        "bare.mp4": "bare",
        "known.mp4": "a known thing",
        "listed.mp4": "a told thing",
    }
    evaluation = given.score([Brightness()], tmp_path / "out")
    videos = {video["file"]: video for video in evaluation.document()["videos"]}
    assert (videos["known.mp4"]["seed"], videos["known.mp4"]["sample"], videos["known.mp4"]["policy"]) == (
        5,
        2,
        "Window",
    )
    assert videos["bare.mp4"]["policy"] is None
    assert videos["bare.mp4"]["figures"]["brightness_of_all"] == pytest.approx(ramp(3).mean(), abs=1e-3)


def test_each_video_has_its_own_rate(tmp_path: Path) -> None:
    there = tmp_path / "given"
    there.mkdir()
    for name, fps in (("slow", 8), ("fast", 24)):
        write_video(there / f"{name}.mp4", ramp(fps * 3), fps)
    evaluation = VideoFolder(there, horizon_seconds=1.0).score([Brightness()], tmp_path / "out")
    assert evaluation.fps is None
    fast, slow = evaluation.document()["videos"]
    assert (fast["fps"], slow["fps"]) == (24, 8)
    assert fast["marks"]["1"]["brightness"] == pytest.approx(ramp(24).mean(), abs=1e-3)
    assert slow["marks"]["1"]["brightness"] == pytest.approx(ramp(8).mean(), abs=1e-3)
    assert fast["summary"]["brightness"]["slope_per_minute"] == pytest.approx(24 * 60, rel=1e-3)
    assert slow["summary"]["brightness"]["slope_per_minute"] == pytest.approx(8 * 60, rel=1e-3)


def test_videos_of_one_name_keep_their_curves_apart(folder: Folder, tmp_path: Path) -> None:
    """Even where the name with the suffix is that of a third video."""
    there = folder(one=ramp(3))
    for name in ("one.mov", "ONE.mp4", "one-mp4.mp4"):
        (there / name).write_bytes((there / "one.mp4").read_bytes())
    evaluation = VideoFolder(there).score([Brightness()], tmp_path / "out")
    names = [str(video["curves"]).removesuffix(".curves.csv") for video in evaluation.document()["videos"]]
    assert len({name.casefold() for name in names}) == 4
    assert {"one-mov", "one-mp4"} < set(names)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{name}.curves.csv" for name in names}


def test_videos_of_different_lengths_are_measured_together(folder: Folder, tmp_path: Path) -> None:
    """One ends before the horizon, one has a single frame, one reaches five horizons."""
    there, out = folder(short=ramp(4), one=ramp(1), long=ramp(41)), tmp_path / "out"
    line = ["test", "--data.videos", str(there), "--horizon_seconds", "1", "--output_dir", str(out)]
    assert main(line) == 0
    videos = {video["file"]: video for video in json.loads((out / "metrics.json").read_text())["videos"]}
    assert {name: list(video["marks"]) for name, video in videos.items()} == {
        "long.mp4": ["1", "5"],
        "one.mp4": [],
        "short.mp4": [],
    }


def test_a_video_of_uneven_rate_is_measured_by_its_times(tmp_path: Path) -> None:
    """Sixteen frames a second for a second, then four: what is shown at each moment, to the true length."""
    times = [n / 16 for n in range(16)] + [1 + n / 4 for n in range(8)]
    there = tmp_path / "given"
    there.mkdir()
    with av.open(there / "a.mp4", "w") as container:
        stream: Any = container.add_stream("libx264", rate=16, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 16000)
        for time in times:  # the grey value tells the time
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), round(20 + 60 * time), np.uint8), "rgb24")
            picture.pts, picture.time_base = round(16000 * time), Fraction(1, 16000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    evaluation = VideoFolder(there).score([Brightness()], tmp_path / "out")
    (video,) = evaluation.document()["videos"]
    assert video["fps"] == pytest.approx(23 / 2.75)
    found = read_curves(tmp_path / "out" / "a.curves.csv")
    assert len(found["seconds"]) == 24
    assert found["seconds"][-1] == pytest.approx(2.75, abs=1e-3)
    off = (found["brightness"] - 20) / 60 - found["seconds"]
    assert np.abs(off).max() < 0.25  # the longest time that a frame is shown


def test_files_that_are_no_videos_are_left_out(folder: Folder, tmp_path: Path) -> None:
    there = folder(**{"10": ramp(3), "9": ramp(3)})
    (there / "._9.mp4").write_bytes(b"\x00\x05\x16\x07" + bytes(100))
    (there / "folder.mp4").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(there / "pipe.mp4")
        os.mkfifo(there / "9.txt")
    evaluation = VideoFolder(there).score([Brightness()], tmp_path / "out")
    assert [(video["file"], video["prompt"]) for video in evaluation.document()["videos"]] == [
        ("9.mp4", "9"),
        ("10.mp4", "10"),
    ]


def test_a_metric_that_raises_is_put_out_and_the_others_go_on(folder: Folder, tmp_path: Path) -> None:
    evaluation = VideoFolder(folder(one=ramp(30))).score([Fragile(), Brightness()], tmp_path / "out")
    (video,) = evaluation.document()["videos"]
    assert video["summary"]["brightness"]["level"] == pytest.approx(ramp(30).mean(), abs=1e-3)
    assert "ZeroDivisionError" in evaluation.failed["Fragile"]
    assert "first in one.mp4" in evaluation.failed["Fragile"]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda there: [path.unlink() for path in there.iterdir()], "holds no video; looked for .mp4"),
        (lambda there: (there / "manifest.json").write_text("{"), r"manifest\.json is damaged"),
        (
            lambda there: (there / "manifest.json").write_text('{"videos": [{"file": "../x", "prompt": "p"}]}'),
            "damaged",
        ),
        (lambda there: (there / "one.mp4").write_bytes(b"no video"), "one.mp4 is damaged or is not a video"),
    ],
)
def test_a_folder_that_cannot_be_measured(folder: Folder, tmp_path: Path, spoil: Any, sentence: str) -> None:
    there = folder(one=ramp(3))
    spoil(there)
    with pytest.raises(UserError, match=sentence):
        VideoFolder(there).score([Brightness()], tmp_path / "out")


def test_no_folder_and_the_folder_itself(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no folder"):
        VideoFolder(tmp_path / "none")
    there = folder(one=ramp(3))
    with pytest.raises(UserError, match="choose another --output_dir"):
        VideoFolder(there).score([Brightness()], there)


def test_the_command_needs_no_config(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = folder(one=ramp(24), two=ramp(24, seed=1))
    monkeypatch.chdir(tmp_path)
    assert main(["test", "--data.videos", str(there), "--horizon_seconds", "1"]) == 0
    printed = capsys.readouterr().out
    out = Path("outputs/given-measured")
    assert {path.name for path in out.iterdir()} == {
        *("metrics.json", "curves.png", "sheet.png", "one.curves.csv", "two.curves.csv"),
    }
    assert re.search(r"^\| lightness +\| [\d.]+ \[[\d.]+, [\d.]+\]", printed, re.MULTILINE)
    for name in ("metrics.json", "curves.png", "sheet.png"):
        assert str(out / name) in printed
    kept = json.loads((out / "metrics.json").read_text())
    assert kept["metrics"] == ["DriftSuite"]
    assert kept["source"] == str(there)


def test_a_video_that_cannot_be_read_is_named_and_the_others_are_measured(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there, out = folder(one=ramp(24), two=ramp(24)), tmp_path / "out"
    whole = (there / "two.mp4").read_bytes()
    (there / "two.mp4").write_bytes(whole[:300])
    assert main(["test", f"--data.videos={there}", "--output_dir", str(out)]) == 1
    printed = capsys.readouterr()
    (sentence,) = [line for line in printed.err.splitlines() if line.startswith("rollforge: ")]
    assert "two.mp4" in sentence
    assert "metrics.json" in printed.out
    assert [video["file"] for video in json.loads((out / "metrics.json").read_text())["videos"]] == ["one.mp4"]
    assert not list(out.glob("*partial*"))


def test_an_unknown_metric_is_named_with_the_nearest(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    there = folder(one=ramp(3))
    assert main(["test", "--data.videos", str(there), "--metrics", "DriftSuit"]) == 2
    assert "Did you mean 'DriftSuite'?" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["no frames", "too short"])
def test_a_video_that_cannot_be_measured_is_one_sentence_and_leaves_nothing(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there, out = tmp_path / "given", tmp_path / "out"
    there.mkdir()
    file = there / "clip.mp4"
    if kind == "too short":
        write_video(file, ramp(30))
    else:
        with av.open(str(file), "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            container.start_encoding()
    assert main(["test", "--data.videos", str(there), "--metrics", "FixedCamera", "--output_dir", str(out)]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "clip.mp4" in printed
    if kind == "too short":
        assert "lasts 3.75 s, and the metric FixedCamera needs 4 s or more" in printed
    assert not out.exists()
