"""Every config of the real model, run as it stands on small checkpoints in the published layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from checkpoints import family, lora, peft, sharded, state
from PIL import Image
from release import write_release, write_vae
from small import not_enlarged  # noqa: F401 - a fixture is used by being here

from rollforge.cli import main
from rollforge.video.reader import probe

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "wan").glob("*.yaml"))
SIZES = {"channels": 4, "text_dim": 24}
TOY: dict[str, object] = {"height": 4, "width": 6, "heads": 2}  # what the files do not show
TOY |= dict.fromkeys(("dim", "layers", "ffn_dim"), "null")  # what they do show
SWITCH = '[[{"prompt": "a red box"}, {"at": "1s", "prompt": "a box"}]]'


def publish(folder: Path, model: dict[str, Any]) -> None:
    """Small files under the very names that a config gives."""
    base = folder / model["codec"]["init_args"]["weights"]
    write_release(base.parent / "parts").diffusers.rename(base)
    write_vae(base)
    backbone = model["backbone"]["init_args"]
    file, weights = folder / backbone["weights"], state(**SIZES)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".pt":
        family(file, state(seed=1, **SIZES), weights)
    else:
        sharded(file, weights)
    if "lora" in backbone:
        torch.save({"generator_lora": peft(lora(weights))}, folder / backbone["lora"])


def test_the_configs_that_were_promised_are_there() -> None:
    assert {path.stem for path in CONFIGS} >= {
        *("self-forcing-5s", "rolling-sink-1min", "rolling-sink-5min", "rolling-sink-30min", "rolling-sink-released"),
        *("attention-sink", "sliding-indices", "causal-forcing-chunk", "causal-forcing-frame", "longlive-1.3b"),
        *("causal-forcing-frame-1step", "causal-forcing-frame-2step", "causvid", "wan-14b"),
    }


FEW = {"causal-forcing-frame", "longlive-1.3b", "rolling-sink-released", "self-forcing-5s", "wan-14b"}
"""Configs that differ most from each other; with ``-m matrix`` all of them are rolled."""


def chosen_first() -> list[Any]:
    """Every config, marked where the fast suite leaves it out."""
    return [pytest.param(each, marks=[] if each.stem in FEW else pytest.mark.matrix) for each in CONFIGS]


@pytest.mark.parametrize("config", chosen_first(), ids=lambda path: path.stem)
def test_a_config_rolls_a_few_blocks(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = yaml.safe_load(config.read_text())
    model, few = chosen["model"], "--model.sampler.init_args.steps=2"
    (tmp_path / "checkpoints").mkdir()
    publish(tmp_path, model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sizes = [f"--model.backbone.init_args.{name}={value}" for name, value in TOY.items()]
    more = [few] if model["sampler"]["class_path"] == "Euler" else []
    more += ["--data.prompts", SWITCH] if isinstance(chosen["data"]["prompts"][0], list) else []
    seconds = 2 if more and SWITCH in more else 1
    line = ["predict", "--config", str(config), "--data.seconds", str(seconds), "--output_dir", "out"]
    assert main([*line, *sizes, *more]) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (video,) = manifest["videos"]
    assert manifest["complete"]
    assert video["policy"] == model["policy"]["class_path"]
    assert probe(tmp_path / "out" / video["file"]).frames == video["frames"] >= seconds * 16


def test_a_picture_opens_a_video_of_the_real_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ROOT / "configs" / "wan" / "rolling-sink-1min.yaml"
    (tmp_path / "checkpoints").mkdir()
    publish(tmp_path, yaml.safe_load(config.read_text())["model"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Image.new("RGB", (90, 60), (200, 30, 30)).save("start.png")
    sizes = [f"--model.backbone.init_args.{name}={value}" for name, value in TOY.items()]
    line = ["predict", "--config", str(config), "--data.seconds", "1", "--data.opening", "start.png", *sizes]
    assert main([*line, "--model.conditioner.device", "cpu", "--output_dir", "out"]) == 0
    (video,) = json.loads((tmp_path / "out" / "manifest.json").read_text())["videos"]
    assert video["frames"] == 4 * 5 - 3  # one latent frame from the picture, whose block has one frame, then the rest


def test_files_that_are_not_there_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "--config", str(ROOT / "configs" / "wan" / "rolling-sink-5min.yaml")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "checkpoints/self_forcing_dmd.pt" in lines[0]
    assert not (tmp_path / "outputs").exists()
