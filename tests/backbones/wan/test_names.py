"""Names of weights against the state dict of diffusers' own Wan, and against what training code wraps around them."""

from __future__ import annotations

from typing import Any

import pytest
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

from rollforge.backbones.wan.names import layout_of, to_diffusers, to_original, unwrapped
from rollforge.backbones.wan.network import Wan

SIZES: dict[str, Any] = {
    "channels": 4,
    "dim": 24,
    "layers": 12,
    "heads": 2,
    "ffn_dim": 16,
    "freq_dim": 8,
    "text_dim": 8,
}


@pytest.fixture(scope="module")
def ours() -> dict[str, Any]:
    return Wan(height=4, width=4, **SIZES).state_dict()


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    model = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=8, freq_dim=8, ffn_dim=16,
        num_layers=12,
    )  # fmt: skip
    state: dict[str, Any] = model.state_dict()
    return state


def test_every_name_has_one_of_diffusers_with_the_same_shape(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    renamed = {to_diffusers(name): value.shape for name, value in ours.items()}
    assert renamed == {name: value.shape for name, value in theirs.items()}


def test_every_name_comes_back(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert [to_original(to_diffusers(name)) for name in ours] == list(ours)
    assert [to_diffusers(to_original(name)) for name in theirs] == list(theirs)


def test_names_are_mapped_as_diffusers_maps_them(ours: dict[str, Any]) -> None:
    numbered: dict[str, Any] = {name: value.clone().fill_(n) for n, (name, value) in enumerate(ours.items())}
    mine = {to_diffusers(name): value.flatten()[0].item() for name, value in numbered.items()}
    converted = convert_wan_transformer_to_diffusers(dict(numbered))
    assert mine == {name: value.flatten()[0].item() for name, value in converted.items()}


def test_modules_are_mapped_as_their_weights_are() -> None:
    assert to_original("blocks.3.attn2.to_out.0") == "blocks.3.cross_attn.o"
    assert to_diffusers("blocks.10.ffn.0") == "blocks.10.ffn.net.0.proj"
    assert to_original("proj_out") == "head.head"


@pytest.mark.parametrize("name", ["decoder.conv1.weight", "blocks.0.norm7.weight", "blocks.x.attn1.to_q.weight", ""])
def test_strange_names_stay_as_they_are(name: str) -> None:
    assert to_original(name) == to_diffusers(name) == name


def test_the_layout_is_told_from_the_names(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert (layout_of(ours), layout_of(theirs)) == ("wan", "diffusers")


@pytest.mark.parametrize(
    "wrapped",
    [
        "blocks.0.self_attn.q.weight",
        "model.blocks.0.self_attn.q.weight",
        "model._fsdp_wrapped_module.blocks.0._fsdp_wrapped_module.self_attn.q.weight",
        "_fsdp_wrapped_module.model.blocks.0._checkpoint_wrapped_module._fsdp_wrapped_module.self_attn.q.weight",
        "model.blocks.0.self_attn._fsdp_wrapped_module.q.weight",
        "module.generator.model.blocks.0._orig_mod.self_attn.q.weight",
        "base_model.model.blocks.0.self_attn.q.weight",
    ],
)
def test_what_training_code_wraps_around_a_name_is_taken_off(wrapped: str) -> None:
    assert unwrapped(wrapped) == "blocks.0.self_attn.q.weight"
