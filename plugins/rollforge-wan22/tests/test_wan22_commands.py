"""The installed package, from the command line, on tiny models in the published layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from release import write_release

from rollforge.cli import main
from rollforge.video.reader import probe

pytestmark = pytest.mark.usefixtures("installed")
CONFIGS = {"5b": "ti2v-5b", "a14b": "t2v-a14b"}
REPOSITORIES = {"5b": "Wan-AI/Wan2.2-TI2V-5B-Diffusers", "a14b": "Wan-AI/Wan2.2-T2V-A14B-Diffusers"}


def line(name: str, releases: dict[str, Any], tmp_path: Path) -> list[str]:
    """The options that make a config small: a complete folder as it is published, and few latents."""
    folder = shutil.copytree(releases[name].folder, tmp_path / "published")
    parts = write_release(tmp_path / "release").diffusers
    for part in ("text_encoder", "tokenizer"):
        shutil.move(parts / part, folder / part)
    named = [f"--model.backbone.folder={folder}", f"--model.codec.folder={folder}"]
    small = ["--model.backbone.height=4", "--model.backbone.width=6", "--data.seconds=2"]
    if name == "5b":
        small.append("--model.sampler.steps=2")
    config = Path(__file__).parents[1] / "configs" / f"{CONFIGS[name]}.yaml"
    return ["--config", str(config), *small, f"--model.conditioner.weights={folder}", *named]


@pytest.mark.parametrize("name", CONFIGS)
def test_config_rolls_a_video_from_a_published_folder(name: str, releases: dict[str, Any], tmp_path: Path) -> None:
    assert main(["predict", *line(name, releases, tmp_path), "--output_dir", str(tmp_path / "out")]) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (video,) = manifest["videos"]
    assert manifest["complete"]
    assert video["fps"] == (24 if name == "5b" else 16)
    assert probe(tmp_path / "out" / video["file"]).frames == (49 if name == "5b" else 33)


def test_doctor_describes_the_folder_and_names_a_missing_file(
    releases: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*line("a14b", releases, tmp_path), "--output_dir", str(tmp_path / "out")]
    doctor = ["doctor", *options, "--probe_seconds=1"]
    assert main(doctor) == 0
    assert "in 4 layers of 2 heads x 12; latents are 6x4x6, in blocks of 3" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "published" / "transformer_2")
    assert main(doctor) != 0
    assert "transformer_2/config.json is missing" in capsys.readouterr().out
    assert main(["predict", *options]) == 2
    printed = capsys.readouterr().err
    assert "transformer_2/config.json is missing" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("name", CONFIGS)
def test_fetch_names_one_download_for_all_components(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fetch", str(Path(__file__).parents[1] / "configs" / f"{CONFIGS[name]}.yaml")]) == 0
    printed = capsys.readouterr().out
    assert "model.backbone.folder, model.conditioner.weights, model.codec.folder" in printed
    assert printed.count(f"hf download {REPOSITORIES[name]}") == 1


def test_plugins_show_prints_both_parts(capsys: pytest.CaptureFixture[str]) -> None:
    for part, kind in (("Wan22", "backbone"), ("Wan22VAE", "codec")):
        assert main(["plugins", "show", part]) == 0
        assert capsys.readouterr().out.startswith(f"{part} ({kind}, from rollforge-wan22 0.1.0)\n")
