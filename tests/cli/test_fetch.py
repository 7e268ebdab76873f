"""``rollforge fetch``: what a config of the Wan family needs, and its download."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkpoints import family, state
from release import write_release, write_vae

from rollforge.backbones.wan.network import Wan
from rollforge.cli import main

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "wan").glob("*.yaml"))
SOURCES = {  # as the authors' own pages give them
    "self_forcing_dmd.pt": "gdhe17/Self-Forcing checkpoints/self_forcing_dmd.pt --local-dir .",
    "causal-forcing-chunk": "zhuhz22/Causal-Forcing chunkwise/causal_forcing.pt --local-dir checkpoints",
    "causal-forcing-frame-1step": "zhuhz22/Causal-Forcing causal-forcing++/framewise-1step.pt --local-dir checkpoints",
    "causal-forcing-frame-2step": "zhuhz22/Causal-Forcing causal-forcing++/framewise-2step.pt --local-dir checkpoints",
    "causvid": "tianweiy/CausVid autoregressive_checkpoint/model.pt --local-dir checkpoints/CausVid",
    "causal-forcing-frame": "zhuhz22/Causal-Forcing framewise/causal_forcing.pt --local-dir checkpoints",
    "longlive-1.3b": "Efficient-Large-Model/LongLive-1.3B models/lora.pt --local-dir checkpoints/LongLive-1.3B",
}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_says_where_its_files_are_published(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, own = main(["fetch", str(config)]), config.stem == "wan-14b"
    printed = capsys.readouterr().out
    assert code == own
    wan = "Wan2.1-T2V-14B" if own else "Wan2.1-T2V-1.3B"
    assert f"hf download Wan-AI/{wan} --include 'text_encoder/*'" in printed
    assert f"--local-dir checkpoints/{wan}" in printed
    if not own:
        source = next(
            (repository for key, repository in SOURCES.items() if key in config.stem), SOURCES["self_forcing_dmd.pt"]
        )
        assert f"hf download {source}\n" in printed
        assert "is not known" not in printed
    assert not list(tmp_path.iterdir())


class Hub:
    """Stands in for the hub: writes what the configs name."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[Any]()

    def __call__(self, repository: str, allow_patterns: list[str], local_dir: str) -> str:
        self.asked.append((repository, local_dir))
        if repository == "gdhe17/Self-Forcing":
            (Path(local_dir) / "checkpoints").mkdir(exist_ok=True)
            family(Path(local_dir) / allow_patterns[0], state(channels=4, text_dim=24))
        else:
            shutil.move(write_release(self.folder / "parts").diffusers, local_dir)
            write_vae(Path(local_dir))
        return local_dir


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", made)
    monkeypatch.chdir(tmp_path)
    return made


def test_what_is_fetched_lies_where_the_config_says(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["fetch", str(ROOT / "configs" / "wan" / "self-forcing-5s.yaml")]
    assert main([*line, "--run"]) == 0
    assert hub.asked == [("gdhe17/Self-Forcing", "."), ("Wan-AI/Wan2.1-T2V-1.3B", "checkpoints/Wan2.1-T2V-1.3B")]
    assert "missing" in capsys.readouterr().out
    assert Wan(weights="./checkpoints/self_forcing_dmd.pt", height=4, width=6, heads=2).spec.channels == 4
    assert main([*line, "--run"]) == 0
    assert len(hub.asked) == 2  # nothing is downloaded twice
    printed = capsys.readouterr().out
    assert "missing" not in printed
    assert "hf download" not in printed


def test_files_that_do_not_come_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *_, local_dir, **__: local_dir
    )  # as without network
    assert main(["fetch", str(ROOT / "configs" / "wan" / "self-forcing-5s.yaml"), "--run"]) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert len(printed) == 1
    assert "the hub did not give gdhe17/Self-Forcing:checkpoints/self_forcing_dmd.pt: there is no network" in printed[0]


def test_hub_names_and_unknown_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load((ROOT / "configs" / "wan" / "longlive-1.3b.yaml").read_text())
    backbone = config["model"]["backbone"]["init_args"]
    backbone["weights"] = "me/models:a b/$(rm).pt"
    backbone["lora"] = {"me/lora": 0.5, str(tmp_path / "mine.safetensors"): 1}
    config["model"]["codec"] = {"class_path": "TinyWanDecoder", "init_args": {"weights": str(tmp_path)}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["fetch", str(tmp_path / "config.yaml")]) == 1
    printed = capsys.readouterr().out
    assert "hf download me/models 'a b/$(rm).pt'\n" in printed
    assert "hf download me/lora --include adapter_model.safetensors" in printed
    assert f"Where '{tmp_path / 'mine.safetensors'}' is published is not known" in printed
    assert f"here     model.codec.weights: '{tmp_path}'" in printed


def test_a_config_without_downloads_needs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", str(ROOT / "configs" / "quickstart.yaml")]) == 0
    assert capsys.readouterr().out == ""
