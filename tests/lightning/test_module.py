"""``RolloutModule.load_from_checkpoint``: without a Trainer, and without anything that the checkpoint says of parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.pocket.text import PocketText
from rollforge.errors import UserError
from rollforge.lightning.data import RolloutData
from rollforge.lightning.module import RolloutModule
from rollforge.objectives.flow import DiffusionForcing
from rollforge.policies import Window
from rollforge.samplers import Euler


def parts(**more: Any) -> dict[str, Any]:
    return {
        "backbone": Pocket(dim=32, layers=1, heads=2, ffn_dim=64), "conditioner": PocketText(),
        "codec": PocketCodec(width=16), "policy": Window(), "sampler": Euler(), **more,
    }  # fmt: skip


def saved(path: Path, module: RolloutModule, **more: Any) -> Path:
    torch.save({"state_dict": module.state_dict(), **more}, path)
    return path


def test_weights_come_from_the_checkpoint_and_parts_from_the_caller(tmp_path: Path) -> None:
    module = RolloutModule(**parts())
    evil = {"_instantiator": "os.system", "_class_path": "os.system", "policy": {"class_path": "os.system"}}
    file = saved(tmp_path / "a.ckpt", module, hyper_parameters=evil)
    loaded = RolloutModule.load_from_checkpoint(file, **parts())
    assert loaded.state_dict().keys() == module.state_dict().keys()
    for name, value in module.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_the_average_is_what_is_loaded(tmp_path: Path) -> None:
    module = RolloutModule(**parts(objective=DiffusionForcing(), ema=0.9))
    assert module.average is not None
    with torch.no_grad():
        for weight in module.average.module.parameters():
            weight.fill_(0.5)
    loaded = RolloutModule.load_from_checkpoint(saved(tmp_path / "a.ckpt", module), **parts())
    assert all(bool((weight == 0.5).all()) for weight in loaded.backbone.parameters())


def test_without_the_parts_it_says_which(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.ckpt", RolloutModule(**parts()))
    for missing in ("backbone", "sampler"):
        given = parts()
        del given[missing]
        with pytest.raises(UserError, match=f"takes its parts from you .*; give {missing}=..."):
            RolloutModule.load_from_checkpoint(file, **given)
    with pytest.raises(UserError, match=r"RolloutData\(...\) with its arguments"):
        RolloutData.load_from_checkpoint(file)


class Code:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}, "more": Code()}, "holds more than tensors"),
        ({"weights": {}}, "holds no state_dict"),
        ([1], "holds a list"),
        ({"state_dict": {}}, "is missing"),
        (None, "There is no checkpoint file"),
    ],
)
def test_what_is_no_checkpoint_of_it_is_one_sentence(
    content: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        torch.save(content, "a.ckpt")
    with pytest.raises(UserError, match=message):
        RolloutModule.load_from_checkpoint("a.ckpt", **parts())
    assert not Path("ran").exists()
