"""``rollforge fit``: a model learns, a run that was cut off goes on, and what it leaves behind."""

from __future__ import annotations

import csv
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.plugins.precision import transformer_engine
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.data.clips import VideoClips
from rollforge.data.world import Scene, render
from rollforge.errors import UserError
from rollforge.video.writer import VideoWriter

RED = "a red ball over snow at day"


@pytest.fixture
def training(tiny: Any) -> Any:
    """The tiny config, set up to train on four clips."""
    tiny.config["model"] |= {
        "objective": {"class_path": "DiffusionForcing"},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.003}},
    }
    clips = {"class_path": "WorldClips", "init_args": {"frames": 6, "clips": 5}}
    tiny.config["data"] = {"prompts": [RED], "seconds": 1.5, "train_dataset": clips, "batch_size": 2}
    tiny.config["trainer"] = {"max_steps": 8}
    return tiny


def losses(folder: Path) -> list[dict[str, float]]:
    with (folder / "losses.csv").open(newline="") as lines:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]


def weights(folder: Path, part: str = "backbone") -> dict[str, Tensor]:
    return load_file(folder / f"{part}.safetensors")


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0)


def test_a_tiny_model_learns_its_clips(training: Any) -> None:
    """The codec on one clip: the loss is not noise, so its fall is the model's doing."""
    training.config["model"]["objective"] = {"class_path": "Reconstruction"}
    training.config["model"]["codec"]["init_args"]["noise"] = 0.0
    training.config["data"] = {
        "train_dataset": {"class_path": "WorldClips", "init_args": {"frames": 1, "clips": 2}}, "batch_size": 2
    }  # fmt: skip
    assert training.run("fit", "--trainer.max_steps", "60") == 0
    curve = [row["loss"] for row in losses(training.out)]
    assert len(curve) == 60
    assert np.mean(curve[-6:]) < 0.5 * np.mean(curve[:6])
    assert set(weights(training.out, "codec")) == set(PocketCodec(width=16).state_dict())


def test_a_tiny_backbone_learns_its_clips(training: Any) -> None:
    training.config["data"]["train_dataset"]["init_args"] = {"frames": 3, "clips": 2}
    training.config["data"]["prompts"] = []
    training.config["model"]["objective"]["init_args"] = {"drop_text": 0.0}
    assert training.run("fit", "--trainer.max_steps", "150") == 0
    curve = [row["loss"] for row in losses(training.out)]
    assert np.mean(curve[-30:]) < 0.7 * np.mean(curve[:5])


def test_fit_leaves_the_curve_samples_weights_and_a_checkpoint(training: Any) -> None:
    assert training.run("fit", "--report_every", "3") == 0
    rows = losses(training.out)
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert all(np.isfinite(row["loss"]) and np.isfinite(row["loss_first_block"]) for row in rows)
    made = {path.name for path in training.out.iterdir()}
    assert {"loss.png", "last.ckpt", "backbone.safetensors"} < made
    samples = sorted(name for name in made if name.startswith("samples-"))
    assert samples == ["samples-000003.png", "samples-000006.png", "samples-000008.png"]
    for name in ("loss.png", *samples):
        with Image.open(training.out / name) as picture:
            picture.load()
            assert min(picture.size) > 60
    assert not [name for name in made if "partial" in name]


def test_drift_speed_and_a_reference_go_next_to_the_losses_and_to_loggers(
    training: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = training.folder / "reference.csv"
    reference.write_text("step,loss\n1,2.5\n2,1.5\n")
    training.config["data"]["seconds"] = 1.5  # 12 frames, and the horizon is shorter
    training.config["model"]["metrics"] = ["Exposure"]
    log = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(training.folder / "log")}}
    training.config["trainer"] |= {"max_steps": 4, "logger": log, "log_every_n_steps": 1}
    assert training.run("fit", "--report_every", "2", "--reference", str(reference)) == 0
    with (training.out / "validation.csv").open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["curve"] == "saturation"]
    assert [int(row["step"]) for row in rows] == [2] * 12 + [4] * 12
    assert float(rows[-1]["seconds"]) == pytest.approx(11 / 8, abs=1e-3)
    with (training.out / "speed.csv").open(newline="") as lines:
        speed = list(csv.DictReader(lines))
    assert [row["step"] for row in speed] == ["2", "4"]
    assert all(float(value) > 0 for row in speed for value in row.values())
    with next(training.folder.rglob("metrics.csv")).open(newline="") as lines:
        logged = [row for row in csv.DictReader(lines) if row["validation/saturation/past_horizon"]]
    horizon = training.config["model"]["backbone"]["init_args"]["horizon"]
    values = [float(row["value"]) for row in rows[12:]]
    for part, wanted in {"within": values[:horizon], "past": values[horizon:]}.items():
        assert float(logged[-1][f"validation/saturation/{part}_horizon"]) == pytest.approx(np.mean(wanted), rel=1e-4)
    assert {"train/loss", "train/steps_per_second", "train/memory_bytes"} <= logged[0].keys()
    assert Image.open(training.out / "validation.png").width > 200

    reference.write_text("step,loss\none,2\n")
    assert training.run("fit", "--reference", str(reference), "--overwrite", "true") == 2
    assert "reference.csv is not a curve of losses" in capsys.readouterr().err


def test_only_the_part_in_training_changes(training: Any) -> None:
    assert training.run("fit", "--trainer.max_steps", "2") == 0
    kept = torch.load(training.out / "last.ckpt", weights_only=False)["state_dict"]
    before = training.out / "before"
    assert training.run("fit", "--trainer.max_steps", "1", "--output_dir", str(before)) == 0
    earlier = torch.load(before / "last.ckpt", weights_only=False)["state_dict"]
    changed = {name.split(".")[0] for name, value in kept.items() if not torch.equal(value, earlier[name])}
    assert changed == {"backbone"}


def test_the_weights_that_fit_writes_can_be_rolled(training: Any) -> None:
    assert training.run("fit") == 0
    made = training.out
    training.config["model"]["backbone"]["init_args"]["weights"] = str(made / "backbone.safetensors")
    training.folder = training.folder / "next"
    training.folder.mkdir()
    assert training.run("predict") == 0
    assert len(training.videos()) == 1


@pytest.mark.parametrize(
    ("part", "ema"),
    [
        ("backbone", 0.9),
        *(
            pytest.param(*each, marks=pytest.mark.matrix)
            for each in (("backbone", 0.0), ("codec", 0.0), ("codec", 0.9))
        ),
    ],
)  # fmt: skip
def test_a_checkpoint_rolls_the_weights_that_fit_writes(training: Any, ema: float, part: str) -> None:
    """Without teacher, critic and clips, which are no longer there."""
    if part == "codec":
        training.config["model"]["objective"] = {"class_path": "Reconstruction"}
    assert training.run("fit", "--model.ema", str(ema)) == 0
    written = training.folder / "written"
    training.config["model"][part]["init_args"]["weights"] = str(training.out / f"{part}.safetensors")
    assert training.run("predict", "--output_dir", str(written)) == 0
    training.config["model"][part]["init_args"]["weights"] = "random"
    nowhere = {"class_path": "Pocket", "init_args": {"weights": "nowhere.safetensors"}}
    training.config["model"]["objective"] = {
        "class_path": "SelfForcing", "init_args": {"matching": "DMD", "critic": nowhere, "teacher": nowhere},
    }  # fmt: skip
    training.config["data"]["train_dataset"] = {
        "class_path": "VideoClips", "init_args": {"folder": "nowhere", "frames": 3, "size": [64, 64]},
    }  # fmt: skip
    for name, option in {"plain": "0", "averaging": str(ema)}.items():  # as configs to roll and to train with have it
        rolled = training.folder / name
        checkpoint = ("--ckpt_path", str(training.out / "last.ckpt"), "--model.ema", option)
        assert training.run("predict", "--output_dir", str(rolled), *checkpoint) == 0
        videos = [next(folder.glob("*.mp4")).read_bytes() for folder in (written, rolled)]
        assert videos[0] == videos[1]


def test_a_checkpoint_of_another_size_is_one_sentence(training: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert training.run("fit") == 0
    capsys.readouterr()
    options = ("--model.codec.init_args.width", "32", "--ckpt_path", str(training.out / "last.ckpt"))
    assert training.run("predict", "--output_dir", str(training.folder / "next"), *options) == 2
    printed = capsys.readouterr().err
    assert "do not fit this model: codec." in printed
    assert "Traceback" not in printed


def test_going_on_with_an_average_that_was_never_kept_is_one_sentence(
    training: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert training.run("fit", "--model.ema", "0") == 0
    options = ("--model.ema", "0.9", "--ckpt_path", str(training.out / "last.ckpt"))
    assert training.run("fit", *options) == 2
    assert "average.n_averaged is missing" in capsys.readouterr().err


@pytest.mark.parametrize("ema", [0.5, pytest.param(0.0, marks=pytest.mark.matrix)])
def test_a_resumed_fit_equals_an_uninterrupted_one(training: Any, ema: float) -> None:
    training.config["model"]["ema"] = ema
    training.config["model"]["scheduler"] = {
        "class_path": "torch.optim.lr_scheduler.LinearLR", "init_args": {"start_factor": 0.1, "total_iters": 8}
    }  # fmt: skip
    whole, parts = training.folder / "whole", training.folder / "parts"
    assert training.run("fit", "--output_dir", str(whole)) == 0
    assert training.run("fit", "--output_dir", str(parts), "--trainer.max_steps", "3", "--report_every", "3") == 0
    assert [row["step"] for row in losses(parts)] == [1, 2, 3]
    assert training.run("fit", "--output_dir", str(parts), "--ckpt_path", str(parts / "last.ckpt")) == 0
    assert_same(weights(parts), weights(whole))
    assert losses(parts) == losses(whole)


def test_averaged_weights_are_the_ones_written(training: Any) -> None:
    training.config["model"]["ema"] = 0.9
    assert training.run("fit") == 0
    kept = torch.load(training.out / "last.ckpt", weights_only=False)["state_dict"]
    written = weights(training.out)
    assert_same(written, {name: kept[f"average.module.{name}"] for name in written})
    assert any(not torch.equal(value, kept[f"backbone.{name}"]) for name, value in written.items())


@pytest.mark.matrix
def test_a_killed_fit_goes_on_from_its_last_checkpoint(training: Any) -> None:
    running = training.start("fit", "--trainer.max_steps", "100000", "--report_every", "4")
    deadline = time.monotonic() + 300
    while not (training.out / "last.ckpt").exists():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=120)
    step = torch.load(training.out / "last.ckpt", weights_only=False)["global_step"]
    assert step >= 4
    last = step + 2
    resumed = ("--ckpt_path", str(training.out / "last.ckpt"), "--report_every", "4")
    assert training.run("fit", *resumed, "--trainer.max_steps", str(last)) == 0
    assert [row["step"] for row in losses(training.out)] == list(range(1, last + 1))

    killed = weights(training.out)
    training.folder = training.folder / "whole"
    training.folder.mkdir()
    assert training.run("fit", "--trainer.max_steps", str(last)) == 0
    assert_same(weights(training.out), killed)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Two mp4s of 14 frames, one with a caption, and a folder of one of 4 frames."""
    folder = tmp_path / "videos"
    (folder / "more").mkdir(parents=True)
    for name, seed, frames in (("a", 0, 14), ("b", 1, 14), ("more/c", 2, 4)):
        shown, _ = render(Scene.parse(RED), seed, frames)
        with VideoWriter(folder / f"{name}.mp4", (64, 64), 8, crf=0) as writer:
            writer.write(shown)
    (folder / "a.txt").write_text(f"{RED}\n")
    (folder / "notes.md").write_text("no video")
    return folder


def test_video_clips_are_cut_from_a_folder_with_their_captions(videos: Path) -> None:
    clips = VideoClips(str(videos), frames=6, size=(64, 64))
    assert len(clips) == 4
    assert [clips[n]["caption"] for n in range(4)] == [RED, RED, "", ""]
    for n, (seed, start) in enumerate([(0, 0), (0, 6), (1, 0), (1, 6)]):
        shown, _ = render(Scene.parse(RED), seed, 14)
        assert np.array_equal(clips[n]["video"].numpy(), shown[start : start + 6])


def test_video_clips_take_every_nth_frame_and_fit_any_size(videos: Path) -> None:
    clips = VideoClips(str(videos), frames=6, size=(64, 64), stride=2)
    assert len(clips) == 2
    assert np.array_equal(clips[1]["video"].numpy(), render(Scene.parse(RED), 1, 14)[0][:11:2])
    assert VideoClips(str(videos), frames=4, size=(24, 40))[0]["video"].shape == (4, 24, 40, 3)


def test_video_clips_say_why_a_folder_gives_none(videos: Path) -> None:
    with pytest.raises(UserError, match="holds no clip of 15 frames in 3 videos"):
        VideoClips(str(videos), frames=15, size=(64, 64))
    with pytest.raises(UserError, match="there is no folder nowhere"):
        VideoClips("nowhere", frames=3, size=(64, 64))


@pytest.mark.parametrize("captions", [True, False])
def test_fit_trains_on_a_folder_of_videos(training: Any, videos: Path, captions: bool) -> None:
    if not captions:
        (videos / "a.txt").unlink()
    arguments = {"folder": str(videos), "frames": 6, "size": [64, 64]}
    training.config["data"]["train_dataset"] = {"class_path": "VideoClips", "init_args": arguments}
    assert training.run("fit", "--trainer.max_steps", "3") == 0
    assert [row["step"] for row in losses(training.out)] == [1, 2, 3]


def test_batches_can_be_overfitted(training: Any) -> None:
    training.config["data"]["prompts"] = []
    assert training.run("fit", "--trainer.overfit_batches", "1", "--trainer.max_steps", "3") == 0
    assert [row["step"] for row in losses(training.out)] == [1, 2, 3]


def test_a_precision_that_needs_a_package_prints_a_one_line_error(
    training: Any, error_line: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformer_engine, "_TRANSFORMER_ENGINE_AVAILABLE", False)
    printed = error_line(training.run("fit", "--trainer.precision", "transformer-engine"))
    assert printed.startswith("rollforge: The section trainer cannot be used on this machine: ")
