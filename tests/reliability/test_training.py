"""Kills and signals during ``fit``: whatever was lost, the resumed training is the uninterrupted one, bit for bit."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, SIGUSR1, Signals
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rollforge.cli import main

HELPERS = Path(__file__).parents[1] / "helpers"
RED = "a red ball over snow at day"
BATCHES = 5  # in an epoch
STEPS = 12
MODEL: dict[str, Any] = {
    "backbone": {
        "class_path": "Pocket",
        "init_args": {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 64, "window": 6, "horizon": 6},
    },
    "conditioner": "PocketText",
    "codec": {"class_path": "PocketCodec", "init_args": {"width": 16}},
    "policy": {"class_path": "RollingSink", "init_args": {"context_blocks": 2, "sink_blocks": 1}},
    "sampler": {"class_path": "Euler", "init_args": {"steps": 1}},
    "objective": {"class_path": "DiffusionForcing"},
    "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.003}},
}
DATA: dict[str, Any] = {
    "train_dataset": {"class_path": "WorldClips", "init_args": {"frames": 6, "clips": 2 * BATCHES + 1}},
    "batch_size": 2,
}  # fmt: skip
Change = dict[str, Any]
PLATEAU = {
    "class_path": "lightning.pytorch.cli.ReduceLROnPlateau",
    "init_args": {"monitor": "loss", "patience": 0, "factor": 0.7},
}
CYCLE = {"class_path": "torch.optim.lr_scheduler.OneCycleLR", "init_args": {"max_lr": 0.01, "total_steps": STEPS}}
NETWORK = {
    "class_path": "Pocket",
    "init_args": {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 64, "window": 6, "horizon": 6, "weights": "random"},
}
TWO_NETWORKS: Change = {
    "model.objective": {
        "class_path": "SelfForcing",
        "init_args": {
            "matching": "DMD", "critic": NETWORK, "teacher": NETWORK, "ratio": 2, "warm_up": 1,
            "critic_optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.002}},
            "critic_scheduler": {"class_path": "torch.optim.lr_scheduler.LinearLR", "init_args": {"total_iters": 9}},
        },
    },
    "model.sampler": {"class_path": "FewStep", "init_args": {"timesteps": [1000, 500]}},
    "model.ema": 0.9, "model.optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.003}},
}  # fmt: skip
CHANCE = {
    "model.backbone.class_path": "chance.Dropping", "data.train_dataset.class_path": "chance.Augmented",
    "model.policy": "chance.Wasteful",
}  # fmt: skip
CURRICULUM = {"model.objective.init_args": {"curriculum": {0: 3, 4: 6}, "single_blocks": 0.3}}
SAMPLES = {"data.prompts": [RED], "data.seconds": 1.0}
LAST_STEP: Change = {
    "model.objective": {
        "class_path": "ResamplingForcing", "init_args": {"history_from": "last_step", "drop_text": 0.5},
    },
    "data.repeat": 2,
    "model.ema": 0.9,
}  # fmt: skip
SETTINGS: dict[str, Change] = {
    "plain": {},
    "average and samples": {"model.ema": 0.9, **SAMPLES},
    "curriculum": CURRICULUM,
    "workers and chance": {**CHANCE, "data.num_workers": 2},
    "accumulation": {"trainer.accumulate_grad_batches": 2},
    "accumulation over epochs": {
        "trainer.accumulate_grad_batches": 3, "trainer.max_steps": -1, "trainer.max_epochs": 5,
    },
    "epochs and plateau": {"trainer.max_steps": -1, "trainer.max_epochs": 3, "model.scheduler": PLATEAU},
    "schedule": {"model.scheduler": CYCLE},
    "codec": {"model.objective": {"class_path": "Reconstruction"}, "trainer.accumulate_grad_batches": 2},
    "half precision": {"trainer.precision": "bf16-true", "model.ema": 0.99},
    "two networks": {**TWO_NETWORKS, "trainer.accumulate_grad_batches": 2, "trainer.gradient_clip_val": 1.0},
    "two networks in half precision": {**TWO_NETWORKS, "trainer.precision": "bf16-mixed"},
    "one batch an epoch": {"data.batch_size": 9, "trainer.accumulate_grad_batches": 2},
    "a limit": {"trainer.limit_train_batches": 3, "trainer.accumulate_grad_batches": 2},
    "accumulation by epoch": {
        "trainer.callbacks": [
            {
                "class_path": "lightning.pytorch.callbacks.GradientAccumulationScheduler",
                "init_args": {"scheduling": {1: 2, 2: 3}},
            }
        ]
    },
    "long tuning": {
        **TWO_NETWORKS,
        "model.objective": {
            "class_path": "LongTuning",
            "init_args": {
                "matching": "DMD", "critic": NETWORK, "teacher": NETWORK, "ratio": 1, "frames": 3, "windows": 4,
                "switch": 0.4,
            },
        },
    },
    "multigrid": {"model.multigrid": {"stages": [{"steps": 6, "lengths": [3, 6]}]}, "model.scheduler": CYCLE},
    "teacher forcing": {"model.objective": {"class_path": "TeacherForcing", "init_args": {"weighting": "bell"}}},
    "resampling": {
        "model.objective": {
            "class_path": "ResamplingForcing", "init_args": {"history_steps": 2, "probability": 0.8, "anneal": 6},
        },
    },
    "history of the last step": LAST_STEP,
    "consistency": {
        "model.objective": {
            "class_path": "ConsistencyDistillation",
            "init_args": {
                "teacher": {
                    "class_path": "Pocket", "init_args": MODEL["backbone"]["init_args"] | {"weights": "random"},
                },
            },
        },
        "model.ema": 0.9,
    },
    "all at once": {
        **CHANCE, **CURRICULUM, **SAMPLES, "model.ema": 0.9, "data.num_workers": 2,
        "trainer.accumulate_grad_batches": 2,
        "model.scheduler": PLATEAU,
    },
}  # fmt: skip
KILL_AT_BATCH = """
import os, signal
from rollforge.lightning import training
real, left = training.TrainedModule.training_step, [{at}]
def training_step(self, *arguments, **options):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), {number})
    return real(self, *arguments, **options)
training.TrainedModule.training_step = training_step
"""
KILL_WHILE_SAVING = """
import os, signal, torch
real, left = torch.save, [{at}]
def save(content, file, *about):
    real(content, file, *about)
    left[0] -= 1
    if not left[0]:
        file.flush()
        file.truncate(file.tell() // 2)
        os.kill(os.getpid(), {number})
torch.save = save
"""


def train(case: Any, changes: Change, folder: str = "case") -> Any:
    """A training case with a setting."""
    case.command, case.folder = "fit", case.folder.with_name(folder)
    case.config = {
        "model": deepcopy(MODEL), "data": deepcopy(DATA),
        "trainer": {"max_steps": STEPS, "enable_progress_bar": False}, "report_every": 2,
    }  # fmt: skip
    for path, value in changes.items():
        *sections, last = path.split(".")
        place = case.config
        for section in sections:
            place = place[section]
        place[last] = deepcopy(value)
    return case


def how(before: str = "") -> dict[str, Any]:
    """The options of a run that knows the parts of ``chance.py``."""
    return {
        "before": f"import sys; sys.path.insert(0, {str(HELPERS)!r}){before}",
        "environment": {"ROLLFORGE_TRUST": "chance"},
    }


def assert_same(one: Any, other: Any, path: str = "") -> None:
    """Compares nested states bit for bit."""
    assert type(one) is type(other), path
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype, path
        bits = (each.nan_to_num(-7.0) if each.is_floating_point() else each for each in (one, other))
        assert torch.equal(*bits), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), path
        for n, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            assert_same(mine, theirs, f"{path}[{n}]")
    else:
        assert one == other, path


def compare(case: Any, whole: Any) -> None:
    """Everything that a training leaves."""
    assert (case.out / "losses.csv").read_text() == (whole.out / "losses.csv").read_text()
    weights = next(whole.out.glob("*.safetensors")).name
    assert_same(load_file(case.out / weights), load_file(whole.out / weights))
    states = [torch.load(each.out / "last.ckpt", weights_only=True) for each in (case, whole)]
    for state in states:
        state["loops"] = state["loops"]["fit_loop"]
        state["loops"].pop("state_dict")
        state["callbacks"] = {name: kept for name, kept in state["callbacks"].items() if "Model" not in name}
    assert_same(*states)
    for sheet in whole.out.glob("samples-*.png"):
        assert (case.out / sheet.name).read_bytes() == sheet.read_bytes()
    assert not list(case.out.glob("*partial*"))
    assert json.loads((case.out / "training.json").read_text())["complete"] is True


def survive(case: Any, another: Any, changes: Change, kills: list[tuple[str, Signals]]) -> str:
    """Trains without a cut, and with one after the other; compares. Returns what the last cut run printed."""
    whole = train(another("whole"), changes, "whole")
    whole.run(**how())
    train(case, changes)
    printed = ""
    for kill, number in kills:
        process = case.start("--resume", **how(kill))
        code = process.wait()
        assert code == (-number if number == SIGKILL else 128 + number), process.printed
        printed = process.printed
        assert "Traceback" not in printed
    case.run("--resume", **how())
    compare(case, whole)
    return printed


def at_batch(number: Signals, at: int) -> tuple[str, Signals]:
    return KILL_AT_BATCH.format(at=at, number=int(number)), number


def while_saving(at: int) -> tuple[str, Signals]:
    return KILL_WHILE_SAVING.format(at=at, number=int(SIGKILL)), SIGKILL


def test_a_training_that_is_killed_again_and_again_is_the_uninterrupted_one(case: Any, another: Any) -> None:
    kills = [at_batch(SIGKILL, 8), while_saving(2), at_batch(SIGUSR1, 4), at_batch(SIGINT, 4)]
    survive(case, another, {**SETTINGS["all at once"], "report_every": 3}, kills)


@pytest.mark.matrix
def test_regression_of_stored_trajectories_survives(case: Any, another: Any, tmp_path: Path) -> None:
    paths, teacher = str(tmp_path / "paths"), tmp_path / "teacher.yaml"
    data = {"prompts": [RED, "a blue box over sand at night"]}
    model = MODEL | {"backbone": deepcopy(MODEL["backbone"])}
    model["backbone"]["init_args"]["weights"] = "random"
    teacher.write_text(json.dumps({"model": model, "data": data}))
    assert main(["trajectories", "--config", str(teacher), "--output_dir", paths]) == 0
    changes = {
        "model.objective": "OdeRegression", "model.sampler": "FewStep",
        "data.train_dataset": {"class_path": "Trajectories", "init_args": {"folder": paths}},
    }  # fmt: skip
    survive(case, another, changes, [at_batch(SIGKILL, 5), while_saving(1)])


@pytest.mark.matrix
def test_signals_before_a_report_and_in_a_later_epoch_change_nothing(case: Any, another: Any) -> None:
    changes = {**SETTINGS["accumulation by epoch"], **SAMPLES}
    survive(case, another, changes, [at_batch(SIGTERM, 1), at_batch(SIGUSR1, 3), at_batch(SIGINT, 1)])


@pytest.mark.parametrize("number", [SIGTERM, SIGUSR1], ids=lambda number: number.name)
def test_a_signal_ends_a_training_with_its_code_and_the_command_that_continues(case: Any, number: Signals) -> None:
    train(case, {"report_every": 1000})
    process = case.start(**how(at_batch(number, 3)[0]))
    assert process.wait() == 128 + number, process.printed
    assert f"{number.name}: finishing this step and saving" in process.printed
    assert re.findall(r"^  rollforge (fit .*)$", process.printed, re.MULTILINE)[0].endswith(" --resume")
    assert torch.load(case.out / "last.ckpt", weights_only=True)["global_step"] == 3


def test_an_interrupted_training_is_neither_lost_nor_continued_by_accident(case: Any) -> None:
    train(case, {})
    case.start(**how(at_batch(SIGKILL, 4)[0])).wait()
    kept = (case.out / "last.ckpt").read_bytes()
    printed = case.run(code=2, **how())
    assert "add --resume to continue it, or --overwrite true to start over" in printed
    assert (case.out / "last.ckpt").read_bytes() == kept
    case.run("--overwrite", "true", "--trainer.max_steps", "1", **how())
    assert len((case.out / "losses.csv").read_text().splitlines()) == 2


@pytest.mark.matrix
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("kind", ["early", "late", "saving", "signals"])
def test_every_setting_survives(case: Any, another: Any, setting: str, kind: str) -> None:
    kills = {
        "early": [at_batch(SIGKILL, 2), at_batch(SIGKILL, 4), at_batch(SIGKILL, 4)],
        "late": [at_batch(SIGKILL, BATCHES + 1)],
        "saving": [while_saving(1), while_saving(2), while_saving(1)],
        "signals": [at_batch(SIGTERM, 1), at_batch(SIGUSR1, 3), at_batch(SIGINT, 1)],
    }[kind]
    survive(case, another, SETTINGS[setting], kills)
