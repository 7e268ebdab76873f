"""The installed package, from the command line, on a tiny model in the published layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from release import write_release, write_vae

from rollforge.cli import main
from rollforge.video.reader import probe

pytestmark = pytest.mark.usefixtures("installed")
CONFIG = Path(__file__).parents[1] / "configs" / "df-1.3b-540p.yaml"
PARTS = ("backbone", "conditioner", "codec")
SMALL = ["--model.backbone.height=4", "--model.backbone.width=6", "--model.sampler.steps=2"]


@pytest.fixture
def line(publish: Callable[..., Any], tmp_path: Path) -> list[str]:
    """The options that make the package's config small: a whole folder as it is published, and few latents."""
    folder = publish().folder
    parts = write_release(tmp_path / "release").diffusers
    for name in ("text_encoder", "tokenizer"):
        shutil.move(parts / name, folder / name)
    write_vae(folder)
    named = [f"--model.{part}.weights={folder}" for part in PARTS]
    return ["--config", str(CONFIG), "--data.seconds=2.5", "--model.conditioner.device=cpu", *SMALL, *named]


def test_the_config_rolls_a_video_from_one_published_folder(line: list[str], tmp_path: Path) -> None:
    assert main(["predict", *line, "--output_dir", str(tmp_path / "out")]) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (video,) = manifest["videos"]
    assert manifest["complete"]
    assert probe(tmp_path / "out" / video["file"]).frames == 61  # 16 latent frames, the last block in part
    assert video["fps"] == 24


def test_doctor_and_fetch_know_the_files(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *line, "--card", "80GB", "--probe_seconds=1"]) == 0
    assert "2 x 1 x 2 layers x 25 frames" in capsys.readouterr().out  # by transformer/config.json
    assert main(["fetch", str(CONFIG)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers") >= 1
    assert "model.backbone.weights, model.conditioner.weights, model.codec.weights" in printed


def test_another_model_is_one_sentence_and_exit_code_2(
    line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "published" / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": "WanTransformer3DModel"}))
    assert main(["predict", *line, "--output_dir", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert "describes a WanTransformer3DModel; expected SkyReelsV2Transformer3DModel" in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_plugins_show_prints_what_the_network_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "show", "SkyReels"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("SkyReels (backbone, from rollforge-skyreels 0.1.0)\n")
    assert "frame_rate: one of 16, 24 = 24" in printed
