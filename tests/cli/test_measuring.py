"""``rollforge test``: what it measures, of videos that it makes and of videos that are there."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from small import MODEL
from torch import Tensor

from rollforge.cli import main
from rollforge.metrics.curves import read_curves
from rollforge.metrics.suite import DriftSuite

CURVES = [
    *("presence", "count", "count_error", "jump", "colour_error", "background_error", "tint", "skyline", "landscape"),
    *("sharpness", "motion", "repetition"),
]
DATA: dict[str, Any] = {"prompts": ["a red ball over snow at day", "a blue box over sand at night"], "seconds": 3.75}


@dataclass
class Finished:
    """A run of ``test``."""

    out: Path
    config: dict[str, Any]
    printed: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """What ``measured`` below leaves behind."""
    folder = tmp_path_factory.mktemp("finished")
    config = {"model": deepcopy(MODEL) | {"metrics": [{"class_path": "WorldTruth"}]}, "data": deepcopy(DATA)}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    with redirect_stdout(io.StringIO()) as printed:
        arguments = ["--config", str(folder / "tiny.yaml"), "--output_dir", str(folder / "out")]
        assert main(["test", *arguments, "--data.rollout_batch_size", "2"]) == 0
    return Finished(folder / "out", config, printed.getvalue())


@pytest.fixture(autouse=True)
def undrawn(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """No curves but those of ``finished``: matplotlib takes a second for them."""
    monkeypatch.setattr("rollforge.evaluation.plots.draw", lambda *_: None)


@pytest.fixture
def measured(tiny: Any) -> Any:
    """The tiny config with the world's metric, and enough video for one horizon and five."""
    tiny.config["model"]["metrics"] = [{"class_path": "WorldTruth"}]
    tiny.config["data"] = deepcopy(DATA)
    return tiny


def rows(text: str) -> list[list[str]]:
    """The cells of the first Markdown table in a text, its rule left out."""
    first = text[text.index("|") :].partition("\n\n")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in first.splitlines()]
    return [lines[0], *lines[2:]]


def kept(folder: Path) -> dict[str, Any]:
    """``metrics.json``, in which nothing but JSON may stand."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    read: dict[str, Any] = json.loads((folder / "metrics.json").read_text(), parse_constant=refuse)
    return read


def test_test_measures_at_multiples_of_the_horizon_beside_the_truth(finished: Finished) -> None:
    head, *body = rows(finished.printed)
    assert head == ["curve", "policy", "1x", "5x"]
    assert [row[0] for row in body[::2]] == CURVES
    assert [row[1] for row in body] == ["(true world)", "RollingSink"] * len(CURVES)
    written = kept(finished.out)
    assert (written["policy"], written["fps"], written["horizon_seconds"]) == ("RollingSink", 8, 0.75)
    assert [video["prompt"] for video in written["videos"]] == finished.config["data"]["prompts"]
    for row in body[1::2]:
        for x, cell in zip(("1", "5"), row[2:], strict=True):
            values = [video["marks"][x][row[0]] for video in written["videos"]]
            if None in values:  # random weights show neither hills nor all of the things
                assert row[0] in ("skyline", "landscape")
                assert (values, cell) == ([None, None], "-")
                continue
            mean, low, high = (float(number) for number in re.findall(r"-?[\d.]+(?:e-?\d+)?", cell))
            assert mean == pytest.approx(sum(values) / 2, rel=0.06, abs=1e-3)
            assert (low, high) == pytest.approx((min(values), max(values)), rel=0.06, abs=1e-3)
    for name in ("sheet.png", "curves.png", "metrics.json"):
        assert str(finished.out / name) in finished.printed
    assert (finished.out / "sheet.png").stat().st_size > 1000
    assert written["truth"]["presence"]["level"]["mean"] > 0.8


def test_the_figures_are_those_of_the_curves_beside_the_videos(finished: Finished) -> None:
    for video in kept(finished.out)["videos"]:
        assert (finished.out / video["file"]).is_file()
        curves = read_curves(finished.out / video["curves"])
        assert len(curves["frame"]) == 30
        assert video["latents"] is None  # WorldTruth looks at no latents
        for name in CURVES:
            assert video["marks"]["1"][name] == figure(curves[name][:6])
            assert video["marks"]["5"][name] == figure(curves[name][24:30])
            assert video["summary"][name]["level"] == figure(curves[name])


def figure(curve: Any) -> Any:
    """What metrics.json must say of a curve."""
    return None if np.isnan(curve).all() else pytest.approx(curve.mean())


def test_the_figures_do_not_depend_on_what_is_rolled_together(measured: Any, finished: Finished) -> None:
    assert measured.run("test", "--data.rollout_batch_size", "1") == 0
    for one, other in zip(kept(measured.out)["videos"], kept(finished.out)["videos"], strict=True):
        for x in ("1", "5"):
            assert one["marks"][x] == pytest.approx(other["marks"][x], abs=2e-3)


def test_test_measures_drift_unless_a_metric_is_named_and_uses_what_predict_has_made(
    tiny: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.config["data"]["seconds"] = 1
    assert tiny.run("predict") == 0
    before = {path.name: path.stat().st_mtime_ns for path in tiny.out.glob("*.mp4")}
    capsys.readouterr()
    assert tiny.run("test") == 0
    written = kept(tiny.out)
    assert written["metrics"] == ["DriftSuite"]
    assert {path.name: path.stat().st_mtime_ns for path in tiny.out.glob("*.mp4")} == before
    assert written["videos"][0]["summary"]["flicker"]["level"] > 0
    (entry,) = json.loads((tiny.out / "manifest.json").read_text())["videos"]
    assert entry["measured_from"] == "file"
    assert "[n=1]" in capsys.readouterr().out


def test_a_metric_that_raises_is_named_and_the_others_are_measured(
    measured: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, *arguments: Any) -> None:
        raise ZeroDivisionError("it stumbled")

    monkeypatch.setattr("rollforge.metrics.sharpness.Sharpness.update", broken)
    measured.config["model"]["metrics"] = [{"class_path": "Sharpness"}, {"class_path": "Flicker"}]
    measured.config["data"]["seconds"] = 1
    assert measured.run("test") == 0
    printed = capsys.readouterr()
    assert "the metric Sharpness raised ZeroDivisionError" in printed.err
    written = kept(measured.out)
    assert "Sharpness" in written["videos"][0]["failed_metrics"]
    assert written["over_prompts"].keys() == {"flicker", "flicker_fast"}


def test_a_video_shorter_than_a_horizon_has_no_marks_but_figures(measured: Any) -> None:
    assert measured.run("test", "--data.seconds", "0.5") == 0
    written = kept(measured.out)
    assert [video["marks"] for video in written["videos"]] == [{}, {}]
    assert written["over_prompts"]["presence"]["level"]["values"] == 2


def test_a_second_policy_stands_beside_the_first(measured: Any, capsys: pytest.CaptureFixture[str]) -> None:
    measured.config["model"]["compare_policy"] = {"class_path": "Window", "init_args": {"context_blocks": 2}}
    measured.config["data"]["seconds"] = 1
    assert measured.run("test") == 0
    _, *body = rows(capsys.readouterr().out)
    assert [row[1] for row in body[:3]] == ["(true world)", "RollingSink", "Window"]
    written = kept(measured.out)
    assert [video["policy"] for video in written["videos"]] == ["RollingSink", "Window"] * 2
    assert written["others"].keys() == {"Window"}


def test_loggers_of_the_config_get_the_curves(measured: Any) -> None:
    logs = measured.folder / "logs"
    measured.config["trainer"] = {"logger": {"class_path": "CSVLogger", "init_args": {"save_dir": str(logs)}}}
    measured.config["data"]["seconds"] = 1
    assert measured.run("test") == 0
    (file,) = logs.rglob("metrics.csv")
    with file.open(newline="") as lines:
        found = [row["test/sharpness"] for row in csv.DictReader(lines) if row["test/sharpness"]]
    expected = [read_curves(measured.out / video["curves"])["sharpness"] for video in kept(measured.out)["videos"]]
    assert [float(value) for value in found] == pytest.approx(list(sum(expected) / 2), rel=1e-4)


def test_given_videos_are_measured_with_the_metrics_and_the_horizon_of_the_config(
    measured: Any, finished: Finished
) -> None:
    made, given = kept(finished.out), measured.folder / "given"
    loose = measured.folder / "loose.yaml"
    measured.config["model"]["backbone"]["init_args"]["weights"] = "nowhere.safetensors"  # nothing of it is loaded
    loose.write_text(yaml.safe_dump(measured.config))
    shutil.copytree(finished.out, given)
    arguments = ["--config", str(loose), "--data.videos", str(given), "--output_dir", str(measured.folder / "scored")]
    assert main(["test", *arguments]) == 0
    scored = kept(measured.folder / "scored")
    assert scored["horizon_seconds"] == 0.75
    assert scored["metrics"] == ["WorldTruth"]
    for one, other in zip(made["videos"], scored["videos"], strict=True):
        assert (one["prompt"], one["policy"]) == (other["prompt"], other["policy"])
        for name in ("background_error", "presence"):
            assert other["marks"]["5"][name] == pytest.approx(one["marks"]["5"][name], abs=0.01)  # H.264 is near


def test_a_video_that_is_given_and_broken_ends_in_1(measured: Any, capsys: pytest.CaptureFixture[str]) -> None:
    measured.config["data"]["seconds"] = 1
    assert measured.run("predict") == 0
    broken = sorted(measured.out.glob("*.mp4"))[0]
    broken.write_bytes(broken.read_bytes()[:200])
    capsys.readouterr()
    more = ["--data.videos", str(measured.out), "--output_dir", str(measured.folder / "scored")]
    assert main(["test", "--config", str(measured.write()), *more]) == 1
    assert broken.name in capsys.readouterr().err
    assert len(kept(measured.folder / "scored")["videos"]) == 1


def test_a_test_that_is_stopped_goes_on_to_the_same_figures(
    measured: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured.config["data"] = {"prompts": DATA["prompts"][:1], "seconds": 3}
    measured.config["model"]["metrics"] = [{"class_path": "DriftSuite"}]
    assert measured.run("test", "--output_dir", str(measured.folder / "whole")) == 0
    update = DriftSuite.update

    def interrupted(self: DriftSuite, frames: Tensor, start: int) -> dict[str, Tensor]:
        if start == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, frames, start)

    with monkeypatch.context() as patch:
        patch.setattr(DriftSuite, "update", interrupted)
        with pytest.raises(SystemExit) as stop:
            measured.run("test")
    assert stop.value.code == 143
    command = capsys.readouterr().err.rstrip().splitlines()[-1]
    assert command.startswith("  rollforge test --config")
    assert command.endswith("--resume")
    assert not (measured.out / "metrics.json").exists()
    assert measured.run("test", "--resume") == 0
    whole, resumed = (kept(folder)["videos"] for folder in (measured.folder / "whole", measured.out))
    assert [without_speed(video) for video in resumed] == [without_speed(video) for video in whole]


def without_speed(video: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in video.items() if key != "speed"}
