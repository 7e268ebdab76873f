"""One run over two processes on the CPU, which talk through gloo on the loopback address alone."""

from __future__ import annotations

import csv
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from rollforge.lightning.distributed_samplers import RankSampler, ResumableSampler
from rollforge.video.reader import frames

PROMPTS = [
    "a red ball over snow at day",
    "a green cone and a blue box over sand at night",
    "a blue box over snow at night",
    "a yellow cone over sand at day",
    "a green ball over snow at day",
]
HELPERS = Path(__file__).parents[1] / "helpers"


@pytest.fixture
def pair(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tiny config, and two processes for whatever is started."""
    monkeypatch.setenv("PYTHONPATH", str(HELPERS))
    tiny.config["data"] = {"prompts": PROMPTS, "seconds": 1}
    tiny.config["trainer"] = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}
    return tiny


def finish(pair: Any, command: str, *more: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command that must not hang."""
    running = pair.start(command, *more)
    stdout, stderr = running.communicate(timeout=600)
    return running.returncode, stdout, stderr


def alone(pair: Any, command: str, folder: str) -> Path:
    """The run folder of the same config in one process."""
    there = pair.folder / folder
    trainer = {key: value for key, value in pair.config["trainer"].items() if key not in ("devices", "strategy")}
    shared, pair.config["trainer"] = pair.config["trainer"], trainer
    assert pair.run(command, "--output_dir", str(there)) == 0
    pair.config["trainer"] = shared
    return Path(there)


def decoded(path: Path) -> NDArray[np.uint8]:
    return np.stack(list(frames(path)))


def manifest(folder: Path, name: str = "manifest.json") -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / name).read_text())
    return read


def lasting(folder: Path) -> list[dict[str, Any]]:
    """The manifest's videos without what differs from run to run."""
    timed = ("wall_seconds", "first_block_seconds", "steady_fps")
    return [{k: v for k, v in video.items() if k not in timed} for video in manifest(folder)["videos"]]


def listening(pid: int) -> set[str]:
    """The addresses, in hexadecimal, that a process listens on."""
    inodes = {os.readlink(file)[8:-1] for file in Path(f"/proc/{pid}/fd").iterdir() if "socket:" in os.readlink(file)}
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return {line[1].partition(":")[0] for line in lines if line[3] == "0A" and line[9] in inodes}


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads the sockets of a process from /proc")
def test_processes_of_one_machine_listen_on_loopback_alone(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pair.folder)  # both are known by where they work
    running, found = pair.start("predict"), set[str]()
    while running.poll() is None:
        for cwd in Path("/proc").glob("[0-9]*/cwd"):
            with suppress(OSError):
                if cwd.readlink() == pair.folder:
                    found |= listening(int(cwd.parent.name))
        time.sleep(0.05)
    assert running.returncode == 0, running.communicate()[1]
    assert found == {"0100007F"}  # 127.0.0.1


def test_a_rank_that_fails_ends_the_run_and_the_next_run_makes_what_is_missing(
    pair: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    obstacle = pair.out / "003-a-yellow-cone-over-sand-at-day.partial.mp4"  # rank 1 makes videos 1 and 3
    obstacle.mkdir(parents=True)
    code, stdout, stderr = finish(pair, "predict")
    assert code == 2, stderr
    assert stderr.count("rollforge: ") == 1
    assert str(obstacle) in stderr
    assert "Traceback" not in stderr
    assert "Open:" not in stdout
    second = pair.out / "001-a-green-cone-and-a-blue-box-over-sand-at-night.mp4"
    assert [entry["complete"] for entry in manifest(pair.out, "manifest.rank-1.json")["videos"]] == [True, False]
    assert manifest(pair.out)["complete"] is False
    assert len(manifest(pair.out)["videos"]) == 5

    obstacle.rmdir()
    before = second.stat().st_mtime_ns
    code, stdout, stderr = finish(pair, "predict")
    assert code == 0, stderr
    assert second.stat().st_mtime_ns == before
    assert manifest(pair.out)["complete"] is True
    assert not list(pair.out.glob("*rank*"))
    assert stdout.count("Open:") == 1

    single = alone(pair, "predict", "single")
    assert lasting(pair.out) == lasting(single)
    assert sorted(path.name for path in pair.out.iterdir()) == sorted(path.name for path in single.iterdir())
    for video in single.glob("*.mp4"):
        assert video.name in stdout
        assert np.array_equal(decoded(pair.out / video.name), decoded(video))


def test_more_ranks_than_prompts_measure_what_one_would(pair: Any) -> None:
    pair.config["model"]["metrics"] = [{"class_path": "WorldTruth"}]
    pair.config["data"] = {"prompts": PROMPTS[:1], "seconds": 1}
    code, stdout, stderr = finish(pair, "test")
    assert code == 0, stderr
    assert stdout.count("Open:") == 1
    single = alone(pair, "test", "single")
    figures = [json.loads((folder / "metrics.json").read_text()) for folder in (pair.out, single)]
    for video in (*figures[0]["videos"], *figures[1]["videos"]):
        del video["speed"]
    assert figures[0] == figures[1]
    assert (pair.out / "sheet.png").read_bytes() == (single / "sheet.png").read_bytes()
    assert (pair.out / "curves.png").read_bytes() == (single / "curves.png").read_bytes()


def test_ranks_measure_their_own_videos_and_one_of_them_reports(pair: Any) -> None:
    pair.config["model"]["metrics"] = [{"class_path": "Flicker"}]
    pair.config["data"] = {"prompts": PROMPTS[:3], "seconds": 1}
    code, stdout, stderr = finish(pair, "test")
    assert code == 0, stderr
    assert stdout.count("Open:") == 1
    measured = json.loads((pair.out / "metrics.json").read_text())
    assert [video["prompt"] for video in measured["videos"]] == PROMPTS[:3]
    assert measured["over_prompts"]["flicker"]["level"]["values"] == 3


def curve(folder: Path) -> list[float]:
    with (folder / "losses.csv").open(newline="") as lines:
        return [float(row["loss"]) for row in csv.DictReader(lines)]


def test_a_resumed_sharded_backbone_trains_as_a_whole_one_does(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLFORGE_TRUST", "deterministic")
    pair.config["model"] |= {
        "objective": {"class_path": "deterministic.Calm"},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05}},
        "ema": 0.5,
    }
    clips = {"class_path": "WorldClips", "init_args": {"frames": 6, "clips": 9}}
    pair.config["data"] = {"prompts": PROMPTS[:1], "seconds": 1, "train_dataset": clips, "batch_size": 2}
    sizes = {"data_parallel_size": 2, "tensor_parallel_size": 1}
    strategy = {"class_path": "lightning.pytorch.strategies.ModelParallelStrategy", "init_args": sizes}
    pair.config["trainer"] |= {"strategy": strategy, "max_steps": 5}
    for more in (["--trainer.max_steps", "2"], ["--resume"]):
        code, _, stderr = finish(pair, "fit", *more)
        assert code == 0, stderr

    pair.config["data"]["batch_size"] = 4
    single = alone(pair, "fit", "single")
    assert len(curve(single)) == 5
    assert curve(pair.out) == pytest.approx(curve(single), abs=1e-4)
    kept, whole = (load_file(folder / "backbone.safetensors") for folder in (pair.out, single))
    assert kept.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(kept[name], value, atol=1e-4, rtol=0)
    assert not [path for path in pair.out.iterdir() if "partial" in path.name]


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("requests", [0, 1, 5, 6])
def test_every_request_goes_to_one_rank(requests: int, ranks: int) -> None:
    shares = [list(RankSampler(requests, ranks, rank)) for rank in range(ranks)]
    assert sorted(n for share in shares for n in share) == list(range(requests))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 0), (2, 3)])
def test_ranks_train_side_by_side_on_what_one_would(place: tuple[int, int]) -> None:
    whole = np.array(list(ResumableSampler(27, 6, lambda: place, 0))).reshape(-1, 6, 2)
    halves = [np.array(list(ResumableSampler(27, 3, lambda: place, 0, 2, rank))).reshape(-1, 3, 2) for rank in (0, 1)]
    assert np.array_equal(np.concatenate(halves, axis=1), whole)


def test_an_epoch_that_is_entered_late_is_the_rest_of_the_whole_one() -> None:
    whole = list(ResumableSampler(27, 6, lambda: (3, 0), 0))
    assert len({clip for _, clip in whole}) == len(whole) == 24
    assert list(ResumableSampler(27, 6, lambda: (3, 2), 0)) == whole[12:]
    assert list(ResumableSampler(27, 6, lambda: (3, 4), 0)) == []
    assert whole != list(ResumableSampler(27, 6, lambda: (4, 0), 0))
