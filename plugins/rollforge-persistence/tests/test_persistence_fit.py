"""``rollforge fit`` of an encoder from the package's configs: it learns, it resumes bit for bit, it refuses."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from rollforge_persistence.moco import MoCo
from safetensors.torch import load_file

from rollforge.cli import main

pytestmark = pytest.mark.usefixtures("installed")
CONFIGS = Path(__file__).parents[1] / "configs"
SMALL = [
    *("--model.width", "16", "--model.hidden", "8", "--model.out", "4", "--data.batch_size", "4"),
    *("--data.train_dataset.init_args.frames", "16", "--trainer.enable_progress_bar", "false"),
]


def fit(name: str, folder: Path, steps: int, *options: str) -> int:
    config = ["--config", str(CONFIGS / f"{name}.yaml"), "--output_dir", str(folder)]
    return main(["fit", *config, *SMALL, "--trainer.max_steps", str(steps), *options])


@pytest.mark.parametrize("name", ["byol", "simclr", "swav"])
def test_each_method_trains_an_encoder(name: str, tmp_path: Path) -> None:
    assert fit(name, tmp_path / "run", 2) == 0
    weights = load_file(tmp_path / "run" / "encoder.safetensors")
    assert weights["frames.0.weight"].shape == (4, 3, 7, 7)
    assert len((tmp_path / "run" / "losses.csv").read_text().splitlines()) == 3


def test_an_interrupted_training_continues_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fit("moco", tmp_path / "whole", 4) == 0
    loss = MoCo.loss

    def interrupted(module: MoCo, views: list[torch.Tensor]) -> torch.Tensor:
        if module.global_step == 1:
            signal.raise_signal(signal.SIGTERM)
        return loss(module, views)

    monkeypatch.setattr(MoCo, "loss", interrupted)
    with pytest.raises(SystemExit):
        fit("moco", tmp_path / "parts", 4)
    monkeypatch.undo()
    assert torch.load(tmp_path / "parts" / "last.ckpt", weights_only=True)["global_step"] == 2
    assert fit("moco", tmp_path / "parts", 4, "--resume") == 0
    whole, parts = (torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "parts"))
    assert parts["global_step"] == 4
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, parts["state_dict"][name]), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.prompts", "a red ball"], "data.prompts is for video models, and rollforge_persistence.moco.MoCo"),
        (["--model.class_path", "rollforge_persistence.encoder.Encoder"], "rollforge_persistence.encoder.Encoder"),
        (["--data.train_dataset.init_args.clip", "3"], "6 frames of a video are not complete clips of 4"),
        (["--model.width", "20"], "MoCo.width must be a multiple of 16 from 16 to 4,096, not 20"),
        (["--trainer.max_steps", "-1", "--trainer.max_epochs", "1"], "say how long it is with trainer.max_steps"),
        (["--model.queue", "0"], "MoCo.queue must be"),
        (["--data.train_dataset.init_args.gap", "500"], "a gap of 500; raise frames, or lower gap."),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("moco", tmp_path / "run", 2, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_other_commands_refuse_such_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--config", str(CONFIGS / "moco.yaml")]) == 2
    assert "model names rollforge_persistence.moco.MoCo, which rollforge fit alone takes" in capsys.readouterr().err
