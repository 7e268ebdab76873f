"""A training removes its own checkpoints and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from rollforge.commands.own_files import OwnFiles

KEY = "ModelCheckpoint{'monitor': None, 'mode': 'min', 'every_n_train_steps': 250}"


def test_paths_of_a_checkpoint_that_lead_out_of_the_run_are_dropped(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    run.mkdir()
    (run / "link.ckpt").symlink_to(other)
    state = {
        "last_model_path": str(run / "last.ckpt"),
        "best_model_path": str(other / "x.ckpt"),
        "kth_best_model_path": f"local://{other}",
        "dirpath": "..",
        "monitor": "train/loss",
        "best_k_models": {
            str(run / "a.ckpt"): 1.0, str(other): 2.0, f"local::{other}": 3.0, str(run / "link.ckpt"): 4.0,
            str(run / ".." / "other"): 5.0,
        },
        "score": torch.tensor(1.0),
    }  # fmt: skip
    assert OwnFiles(run).own({KEY: state})[KEY] == {
        "last_model_path": str(run / "last.ckpt"),
        "best_model_path": "",
        "kth_best_model_path": "",
        "dirpath": "",
        "monitor": "train/loss",
        "best_k_models": {str(run / "a.ckpt"): 1.0},
        "score": torch.tensor(1.0),
    }


@pytest.mark.parametrize(
    ("name", "removed"),
    [("run/old.ckpt", True), ("run/sharded", True), ("run/pictures", False), ("other", False), ("other/a.txt", False)],
)
def test_only_checkpoints_of_the_run_are_removed(tmp_path: Path, name: str, removed: bool) -> None:
    for file in ("run/old.ckpt", "run/sharded/.metadata", "run/sharded/0.distcp", "run/pictures/a.png", "other/a.txt"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    trainer: Any = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", default_root_dir=tmp_path)
    OwnFiles(tmp_path / "run").watch(trainer)
    for path in (str(tmp_path / name), f"local://{tmp_path / name}" if not removed else str(tmp_path / name)):
        trainer.strategy.remove_checkpoint(path)
    assert (tmp_path / name).exists() is not removed


def test_a_checkpoint_of_a_stranger_deletes_no_folder(tiny: Any) -> None:
    """Through the whole command: what the state of a callback names is left alone, and the training resumes."""
    treasure = tiny.folder / "treasure"
    treasure.mkdir()
    (treasure / "a.txt").touch()
    tiny.config["model"]["objective"] = "DiffusionForcing"
    tiny.config["data"] = {"train_dataset": {"class_path": "WorldClips", "init_args": {"frames": 6}}, "batch_size": 1}
    keeping = {"monitor": "step", "mode": "max", "save_top_k": 1, "every_n_train_steps": 1}  # removes what it kept
    callbacks = [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": keeping}]
    tiny.config["trainer"] = {"max_steps": 2, "callbacks": callbacks}
    assert tiny.run("fit") == 0
    file = tiny.out / "last.ckpt"
    content = torch.load(file, weights_only=True)
    (key,) = (key for key in content["callbacks"] if key.startswith(ModelCheckpoint.__name__))
    content["callbacks"][key] |= {
        "last_model_path": f"local://{treasure}", "best_k_models": {f"local://{treasure}": torch.tensor(1.0)},
    }  # fmt: skip
    torch.save(content, file)
    assert tiny.run("fit", "--ckpt_path", str(file), "--trainer.max_steps=3") == 0
    assert (treasure / "a.txt").exists()
