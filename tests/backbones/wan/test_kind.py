"""What weights are, by names: causal, bidirectional, or not known; and what doctor says of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from checkpoints import UNSEEN, State, family, sharded, state
from safetensors.torch import save_file
from small import MODEL

from rollforge.backbones.wan.checkpoint import open_checkpoint
from rollforge.backbones.wan.network import Wan
from rollforge.cli import main
from rollforge.errors import UserError


@pytest.fixture(scope="module")
def weights() -> State:
    return state(channels=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose names, and those of the folders above it, say nothing."""
    deep = tmp_path / "a" / "b" / "c" / "d"
    deep.mkdir(parents=True)
    return deep


def published(folder: Path, name: str, weights: State) -> Path:
    """The weights under a name, in the layout that goes with its suffix."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".pt":
        return family(file, weights)
    save_file(weights, file)
    return file


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        ("self_forcing_dmd.safetensors", "causal"),
        ("Wan2.1-T2V-1.3B-Self-Forcing-bf16.safetensors", "causal"),
        ("Wan2.1-T2V-1.3B/self_forcing_dmd.pt", "causal"),
        ("krea-realtime-video-14b.safetensors", "causal"),
        ("CausVid/autoregressive_checkpoint/model.pt", "causal"),
        ("CausVid/bidirectional_checkpoint2/model.pt", "bidirectional"),
        ("Wan21_CausVid_bidirect2_T2V_1_3B.safetensors", "bidirectional"),
        ("Wan2.1-T2V-1.3B/diffusion_pytorch_model.safetensors", "bidirectional"),
        ("models--Wan-AI--Wan2.1-T2V-1.3B/snapshots/0f3/transformer/w.safetensors", "bidirectional"),
        ("models--gdhe17--Self-Forcing/snapshots/0f3/checkpoints/x.pt", "causal"),
        ("causal/Wan2.1-T2V-1.3B/diffusion_pytorch_model.safetensors", "bidirectional"),  # the nearest name counts
        ("wan2.1_t2v_1.3B_fp16.safetensors", "bidirectional"),
        ("lightx2v_T2V_14B_cfg_step_distill.safetensors", "bidirectional"),
        ("model.pt", "causal"),  # by the key generator
        ("w.safetensors", "unknown"),
    ],
)
def test_names_tell_causal_from_bidirectional(folder: Path, weights: State, name: str, attention: str) -> None:
    file = published(folder, name, weights)
    assert open_checkpoint(str(file), "Part").origin.attention == attention


def test_what_convert_writes_remembers_its_source(folder: Path, weights: State) -> None:
    for name, attention in (("self_forcing_dmd.pt", "causal"), ("wan2.1_t2v_1.3B.safetensors", "bidirectional")):
        published(folder, name, weights)
        assert main(["convert", str(folder / name), str(folder / f"{attention[0]}.safetensors")]) == 0
        assert open_checkpoint(str(folder / f"{attention[0]}.safetensors"), "Part").origin.attention == attention


@pytest.mark.parametrize(
    ("name", "code", "status", "end"),
    [
        ("self_forcing_dmd.safetensors", 0, "ok", "This will work"),
        ("w.safetensors", 0, "unknown", "This will run, but whether the video will be any good cannot be told"),
        ("Wan2.1-T2V-1.3B/diffusion_pytorch_model.safetensors", 1, "problem", "This will not work: 1 problem."),
    ],
)
def test_doctor_says_whether_weights_are_causal(
    folder: Path, weights: State, capsys: pytest.CaptureFixture[str], name: str, code: int, status: str, end: str
) -> None:
    file = published(folder, name, weights)
    sizes = {"height": 8, "width": 8, "heads": 2, "text_len": 4}
    backbone = {"class_path": "Wan", "init_args": {"weights": str(file), **sizes}}
    config = {
        "model": MODEL | {"backbone": backbone},
        "data": {"prompts": ["a red ball over snow at day"], "seconds": 3},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    line = ["doctor", "--config", str(folder / "config.yaml"), "--output_dir", str(folder / "out")]
    assert main([*line, "--probe_seconds", "0"]) == code
    printed = capsys.readouterr().out
    assert re.search(rf"^{status} +backbone +.*(causal|bidirectional)", printed, re.MULTILINE), printed
    assert printed.strip().splitlines()[-1].startswith(end)


# one shard of several


def test_one_shard_stands_for_all_if_the_index_is_beside_it(folder: Path, weights: State) -> None:
    index = sharded(folder, weights)
    shard = sorted(folder.glob("*.safetensors"))[1]
    model = Wan(weights=str(shard), dtype="fp32", **UNSEEN)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    index.unlink()
    for named in (shard, folder):
        with pytest.raises(
            UserError, match=r"is shard [12] of 3, and .*index.json is not next to it; download all shards"
        ):
            Wan(weights=str(named), **UNSEEN)


def test_an_index_of_torch_files_is_read(folder: Path, weights: State) -> None:
    names = list(weights)
    parts = {"model-00001-of-00002.bin": names[::2], "model-00002-of-00002.bin": names[1::2]}
    for file, those in parts.items():
        torch.save({name: weights[name] for name in those}, folder / file)
    listed: dict[str, Any] = {name: file for file, those in parts.items() for name in those}
    (folder / "model.bin.index.json").write_text(json.dumps({"weight_map": listed}))
    model = Wan(weights=str(folder), dtype="fp32", **UNSEEN)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_sharded_training_checkpoint_is_named(folder: Path) -> None:
    (folder / ".metadata").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(UserError, match=r"a sharded checkpoint of fit; name backbone.safetensors"):
        Wan(weights=str(folder), **UNSEEN)


def test_the_training_checkpoint_of_a_wan_network(folder: Path, weights: State) -> None:
    average = {f"average.module.{name}": value + 1 for name, value in weights.items()}
    trained = {f"backbone.{name}": value for name, value in weights.items()}
    content = {"pytorch-lightning_version": "2.6.0", "state_dict": trained | average | {"codec.x": torch.ones(1)}}
    torch.save(content, folder / "last.ckpt")
    for ema, more in ((None, 1), (True, 1), (False, 0)):
        model = Wan(weights=str(folder / "last.ckpt"), ema=ema, dtype="fp32", **UNSEEN)
        assert all(torch.equal(value, weights[name] + more) for name, value in model.state_dict().items())
    torch.save(content | {"state_dict": trained}, folder / "last.ckpt")
    with pytest.raises(UserError, match="holds no averaged weights"):
        Wan(weights=str(folder / "last.ckpt"), ema=True, **UNSEEN)
