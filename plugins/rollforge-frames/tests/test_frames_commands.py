"""The installed package from the command line: a small network is trained, and rolled from its weights."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from rollforge.cli import main
from rollforge.video.reader import probe

pytestmark = pytest.mark.usefixtures("installed")
CONFIGS = Path(__file__).parents[1] / "configs"
SMALL = ["--model.backbone.dim=32", "--model.backbone.layers=2"]


def test_fit_learns_and_predict_rolls_past_the_horizon_from_its_weights(tmp_path: Path) -> None:
    trained, rolled = tmp_path / "trained", tmp_path / "rolled"
    options = ["--trainer.max_steps=40", "--data.prompts=[]", "--data.batch_size=4"]
    assert main(["fit", "--config", str(CONFIGS / "train.yaml"), *SMALL, *options, "--output_dir", str(trained)]) == 0
    with (trained / "losses.csv").open(newline="") as lines:
        losses = [float(row["loss"]) for row in csv.DictReader(lines)]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])

    weights = f"--model.backbone.weights={trained / 'backbone.safetensors'}"
    line = ["--config", str(CONFIGS / "predict.yaml"), *SMALL, weights, "--data.seconds=1.5", "--model.sampler.steps=2"]
    assert main(["predict", *line, "--output_dir", str(rolled)]) == 0
    manifest = json.loads((rolled / "manifest.json").read_text())
    assert manifest["complete"]
    assert [video["prompt"] for video in manifest["videos"]] == ["circle", "square", "triangle"]
    assert [probe(rolled / video["file"]).frames for video in manifest["videos"]] == [12] * 3  # a training clip has 8


def test_a_prompt_that_is_not_a_shape_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model.backbone.weights=random", "--data.prompts=[a dog]", "--output_dir", str(tmp_path / "out")]
    assert main(["predict", "--config", str(CONFIGS / "predict.yaml"), *SMALL, *options]) == 2
    printed = capsys.readouterr().err
    assert "ShapeNames knows circle, square, triangle and the empty prompt, not 'a dog'" in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_doctor_accepts_the_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["doctor", "--config", str(CONFIGS / "test.yaml"), "--model.backbone.weights=random", "--probe_seconds=1"])
        == 0
    )
    assert "4 layers of 4 heads x 64; latents are 3x16x16, in blocks of 1" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["FrameTransformer", "ShapeNames", "SmallPictures", "MovingShapes"])
def test_plugins_show_lists_every_component(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "show", part]) == 0
    assert "from rollforge-frames 0.1.0)\n" in capsys.readouterr().out.partition("class_path")[0]
