"""The identity of a run, shown with its figures: prompts, frames before encoding, noise, commit and counters."""

from __future__ import annotations

import json
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import rollforge
from rollforge.metrics.thumbnails import SUFFIX, read
from rollforge.report.frame_record import FrameRecord

INFO = '[{"prompt_en": "a red ball over snow at day", "dimension": ["color"]}, {"prompt_en": "a blue box"}]'


def chained(frames: Any) -> str:
    """The hash by its formula."""
    digest = b""
    for frame in frames:
        digest = md5(digest + np.asarray(frame).tobytes()).digest()
    return digest.hex()


def test_a_run_says_of_what_its_figures_are(tiny: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("rollforge.evaluation.plots.draw", lambda *_: None)
    suite = tiny.folder / "suite.json"
    suite.write_text(INFO)
    tiny.config["data"] = {"prompts": str(suite), "first_prompts": 1, "seeds": 2, "seconds": 2.25}
    assert tiny.run("test") == 0
    printed, digest = capsys.readouterr().out, sha256(suite.read_bytes()).hexdigest()
    assert f"suite.json, sha256 {digest}; 1 of 2 prompts" in printed
    assert "RollingSink; frames " in printed
    manifest = json.loads((tiny.out / "manifest.json").read_text())
    assert (manifest["prompts"]["sha256"], manifest["prompts"]["count"]) == (digest, 1)
    first, second = manifest["videos"]
    assert [(each["noise"], each["seed"], each["sample"]) for each in (first, second)] == [
        ("IndependentNoise", 0, 0),
        ("IndependentNoise", 1, 1),
    ]
    assert first["read"]["moved"] > 0
    clip = rollforge.load(str(tiny.write())).generate("a red ball over snow at day", 2.25)[0]
    assert first["md5"] == chained(clip.frames) != second["md5"]
    thumbnails = read((tiny.out / Path(first["file"])).with_suffix(SUFFIX))
    small = cv2.resize(clip.frames[16].numpy(), (16, 16), interpolation=cv2.INTER_AREA)
    assert len(thumbnails) == 3  # at 8 frames per second
    assert (thumbnails[2] == small).all()
    (kept, _) = json.loads((tiny.out / "metrics.json").read_text())["videos"]
    assert kept["identity"]["md5"] == first["md5"]
    assert kept["identity"]["commit"] == first["commit"]


def test_the_record_goes_on_where_a_run_was_cut() -> None:
    video = np.random.default_rng(0).integers(0, 256, (30, 20, 24, 3)).astype(np.uint8)
    whole, before, after = FrameRecord(7.5), FrameRecord(7.5), FrameRecord(7.5)
    whole.add(video)
    for part in (video[:3], video[3:11]):
        before.add(part)
    after.load_state_dict(before.state_dict())
    after.add(video[11:])
    assert whole.digest == after.digest == chained(video)
    assert (whole.thumbnails.kept == after.thumbnails.kept).all()
    expected = [cv2.resize(video[n], (16, 16), interpolation=cv2.INTER_AREA) for n in (0, 8, 15, 22)]
    assert (whole.thumbnails.kept.numpy() == np.stack(expected)).all()


def test_a_run_that_is_shorter_than_a_metric_needs_is_refused_before_anything_is_written(
    tiny: Any, capsys: Any
) -> None:
    tiny.config["model"]["metrics"] = [{"class_path": "FixedCamera"}]
    assert tiny.run("test") == 2
    expected = "A video of this config (data.seconds) lasts 3 s, and the metric FixedCamera needs 4 s or more"
    assert expected in capsys.readouterr().err
    assert not tiny.out.exists()
