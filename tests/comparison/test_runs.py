"""Which runs are there, which have to be made, and what stands for their content."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from finished_runs import config

from rollforge.comparison.identity import content_hash
from rollforge.comparison.progress import Progress
from rollforge.comparison.run_result import RunResult
from rollforge.comparison.runs import Run, check_apart
from rollforge.errors import UserError

Make = Callable[..., list[Run]]
RED = "a red ball over snow at day"


def test_the_hash_covers_what_the_videos_depend_on(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"one")
    settings = config("Window", [RED])
    settings["model"]["backbone"]["init_args"]["weights"] = str(weights)
    first = content_hash(settings)
    assert content_hash(settings | {"output_dir": "elsewhere", "trainer": {"devices": 4}}) == first
    assert content_hash(settings | {"data": settings["data"] | {"rollout_batch_size": 8}}) == first
    os.utime(weights, (1, 1))
    assert content_hash(settings) == first  # the content counts, not the date
    others = [
        settings | {"data": settings["data"] | {"seed": 1}},
        settings | {"data": settings["data"] | {"seconds": 5.0}},
        settings | {"model": settings["model"] | {"policy": config("RollingSink", [])["model"]["policy"]}},
        settings | {"trainer": {"precision": "bf16"}},
        settings | {"ckpt_path": str(weights)},
    ]
    assert len({first, *map(content_hash, others)}) == 1 + len(others)
    weights.write_bytes(b"two")
    assert content_hash(settings) != first


def test_a_folder_of_weights_counts_by_size_and_date(tmp_path: Path) -> None:
    (tmp_path / "wan").mkdir()
    (tmp_path / "wan" / "a.safetensors").write_bytes(b"x")
    settings = config("Window", [RED]) | {"ckpt_path": str(tmp_path / "wan")}
    first = content_hash(settings)
    (tmp_path / "wan" / "a.safetensors").write_bytes(b"xy")
    assert content_hash(settings) != first


def test_only_a_whole_run_of_the_same_hash_is_finished(finished: Make) -> None:
    (run,) = finished([RED], policies=1)
    assert run.finished
    assert run.made() == run.asked
    manifest = run.folder / "manifest.json"
    whole = manifest.read_text()
    manifest.write_text(whole.replace('"complete": true', '"complete": false'))
    assert not run.finished
    assert run.started
    manifest.write_text("{")
    assert not run.finished
    manifest.write_text(whole)
    (run.folder / "metrics.json").unlink()
    assert not run.finished
    other = Run(run.point, run.config, run.hash[:8] + "f" * 56, run.runs, run.arguments, run.asked)
    assert other.folder == run.folder
    assert not other.finished


def test_what_is_made_is_read_from_the_curves_of_unfinished_videos(tmp_path: Path, finished: Make) -> None:
    (run,) = finished([RED, "another"], policies=1)
    (run.folder / "metrics.json").unlink()
    manifest = json.loads((run.folder / "manifest.json").read_text())
    manifest["videos"][1]["complete"] = False
    (run.folder / "manifest.json").write_text(json.dumps(manifest))
    (run.folder / "001-video.curves.partial.csv").write_text("frame,seconds,a\n0,0,1\n24,1.5,1\n25,1.56")
    (run.folder / "000-video.curves.partial.csv").write_text("frame,seconds,a\n0,0,1\n24,1.5,1\n")
    assert run.made() == 4.0 + 1.5
    row = Progress([run]).rows()[0]
    assert row == ("Window", "waiting", "5.5 of 8.0 s", "-", "-")


def test_the_last_sentence_of_a_run_is_found(finished: Make) -> None:
    (run,) = finished([RED], policies=1)
    assert run.sentence() == "it printed nothing"
    (run.folder / Run.log).write_text("bar 1\rbar 2\nrollforge: There is no such file.\n")
    assert run.sentence() == "There is no such file."
    (run.folder / Run.log).write_text("Traceback\nValueError: no\n\n")
    assert run.sentence() == "ValueError: no"


def test_two_points_of_one_config_are_a_mistake(finished: Make) -> None:
    one, other = finished([RED], policies=2)
    check_apart([one, other])
    other.hash = one.hash
    with pytest.raises(UserError, match=r"model.policy=Window and model.policy=AttentionSink are the same config"):
        check_apart([one, other])


def test_a_damaged_run_is_named(finished: Make) -> None:
    (run,) = finished([RED], policies=1)
    (run.folder / "metrics.json").write_text('{"videos": [{}]}')
    with pytest.raises(UserError, match="remove the folder"):
        RunResult.of(run)
