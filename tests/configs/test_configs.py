"""Every config of the repository builds its model and its data; nothing is run."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rollforge.backbones.base import Backbone
from rollforge.commands.lightning import RollforgeCLI
from rollforge.commands.ranks import Ranks
from rollforge.commands.typed import read
from rollforge.registry import registry

ROOT = Path(__file__).parents[2]
ELSEWHERE = {"wan", "field"}  # which need files, and packages; other tests read them
CONFIGS = sorted(file for file in (ROOT / "configs").rglob("*.yaml") if not ELSEWHERE.intersection(file.parts))


def build(config: Path, monkeypatch: pytest.MonkeyPatch) -> RollforgeCLI:
    monkeypatch.chdir(ROOT)
    registry().load()
    chosen = yaml.safe_load(config.read_text())["model"]
    made = [
        f"--model.{part}.init_args.weights=null"
        for part in ("backbone", "codec")
        if str(chosen[part].get("init_args", {}).get("weights", "")).startswith("runs/")  # an earlier stage makes it
    ]
    for network, part in chosen.get("objective", {}).get("init_args", {}).items():
        if isinstance(part, dict) and str(part.get("init_args", {}).get("weights", "")).startswith("runs/"):
            made.append(f"--model.objective.init_args.{network}.init_args.weights=random")
    if str(_of(yaml.safe_load(config.read_text()), "data", "train_dataset", "init_args", "folder")).startswith("runs/"):
        made.append('--data.train_dataset={"class_path": "WorldClips", "init_args": {"frames": 21}}')
    command = "fit" if "objective" in chosen else "predict"
    return RollforgeCLI(command, read(["--config", str(config), *made]), Ranks(), ExitStack())


def _of(config: Any, *keys: str) -> Any:
    """What a config has at these keys, one in the other; None where it has nothing there."""
    for key in keys:
        config = config.get(key) if isinstance(config, dict) else None
    return config


def test_there_are_configs() -> None:
    assert ROOT / "configs" / "quickstart.yaml" in CONFIGS
    assert any("pocket" in config.parts for config in CONFIGS)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_a_config_builds_its_model_and_its_data(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = build(config, monkeypatch)
    model, data = cli.model, cli.datamodule
    assert isinstance(model.backbone, Backbone)
    if data.prompts:
        requests = model.requests(data)
        model.conditioner.check([prompt for request in requests for prompt in request.prompts.values()])
    if model.objective is None:
        assert data.prompts or "train_dataset" in yaml.safe_load(config.read_text())["data"]
        return
    assert cli.folder.path.parts[0] == "runs"
    optimizer = model.configure_optimizers()
    optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    networks = [each for each in (model.trained, model.critic) if each is not None]
    assert trained == {id(parameter) for network in networks for parameter in network.parameters()}
    clip: Any = data.train_dataset[0]  # type: ignore[index]
    latents = model.pipeline.encode(clip["video"][None])
    assert latents.shape[2:] == model.backbone.spec.latent_shape
    assert latents.shape[1] % model.backbone.spec.block == 0 or model.objective.trains == "codec"
    assert torch.isfinite(latents).all()


def test_paths_of_earlier_stages_are_outputs_of_some_config() -> None:
    """A stage that starts from weights in ``runs/x`` follows one that writes there."""
    read = [yaml.safe_load(config.read_text()) for config in CONFIGS]
    written = {os.path.normpath(config["output_dir"]) for config in read if "output_dir" in config}
    for config in read:
        for part in ("backbone", "codec"):
            weights = str(config["model"][part].get("init_args", {}).get("weights", ""))
            if weights.startswith("runs/"):
                assert os.path.dirname(weights) in written
                assert os.path.basename(weights) == f"{part}.safetensors"
