"""Weights into any module: ``load_weights`` keeps the module's own number format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.weights import load_weights, shipped
from rollforge.errors import UserError


def module() -> nn.Module:
    """A module with weights, statistics and a counter."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_weights_and_counters_come_back(tmp_path: Path) -> None:
    saved, other = module(), module()
    with torch.no_grad():
        saved[1](saved[0](torch.randn(5, 3)))
        other[0].weight.zero_()
    save_file(saved.state_dict(), tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert other.state_dict()["1.num_batches_tracked"] == 1
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in saved.state_dict().items())


def test_bf16_weights_load_into_an_fp32_module(tmp_path: Path) -> None:
    saved = module()
    save_file({name: value.bfloat16() for name, value in saved.state_dict().items()}, tmp_path / "w.safetensors")
    other = module()
    load_weights(other, tmp_path / "w.safetensors")
    assert other[0].weight.dtype is torch.float32
    assert torch.equal(other[0].weight, saved[0].weight.bfloat16().float())


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("0.bias", None, "0.bias is missing"),
        ("9.bias", torch.ones(1), "9.bias is unexpected"),
        ("0.bias", torch.ones(5), r"0.bias is \[5\], expected \[4\]"),
        ("0.bias", torch.full((4,), torch.nan), "not finite in 0.bias"),
    ],
)
def test_a_file_that_does_not_fit_is_named(
    tmp_path: Path, name: str, value: torch.Tensor | None, expected: str
) -> None:
    content = {key: tensor for key, tensor in module().state_dict().items() if key != name}
    save_file(content | ({} if value is None else {name: value}), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=f"^Sequential: .*w.safetensors.*{expected}"):
        load_weights(module(), tmp_path / "w.safetensors")


def test_pocket_says_what_its_weights_are(tmp_path: Path) -> None:
    sizes = {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 64}
    assert Pocket(**sizes).weights is None  # type: ignore[arg-type]
    assert Pocket(**sizes, weights="random").weights == "random"  # type: ignore[arg-type]
    save_file(Pocket(**sizes).state_dict(), tmp_path / "w.safetensors")  # type: ignore[arg-type]
    loaded = Pocket(**sizes, weights=str(tmp_path / "w.safetensors"))  # type: ignore[arg-type]
    assert loaded.weights == str(tmp_path / "w.safetensors")
    assert next(loaded.parameters()).dtype is torch.float32


@pytest.mark.parametrize("named", ["", " ", "nowhere.safetensors"])
def test_random_weights_never_stand_in_for_pockets_own(named: str) -> None:
    with pytest.raises(UserError, match="Pocket: there is no weights file"):
        Pocket(dim=32, layers=1, heads=2, ffn_dim=64, weights=named)


def test_shipped_files_lie_in_the_package() -> None:
    assert shipped("codec").is_file()
