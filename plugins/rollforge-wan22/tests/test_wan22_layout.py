"""What a folder holds, and one sentence for every folder that will not do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rollforge_wan22.backbone import Wan22
from rollforge_wan22.codec import Wan22VAE
from rollforge_wan22.layout import read_layout

from rollforge.errors import UserError

INDEX = "model_index.json"


def test_layout_of_one_expert_and_of_two(releases: dict[str, Any]) -> None:
    one, two = (read_layout(releases[name].folder, "Wan22") for name in ("5b", "a14b"))
    assert (len(one.folders), one.boundary) == (1, None)
    assert ([folder.name for folder in two.folders], two.boundary) == (["transformer", "transformer_2"], 875.0)
    sizes = {"heads": 2, "dim": 24, "channels": 6, "layers": 2, "ffn_dim": 32, "freq_dim": 16, "text_dim": 24}
    assert one.sizes == two.sizes == sizes | {"eps": 1e-6}


@pytest.mark.parametrize(("name", "file", "changes", "message"), [
    ("5b", INDEX, {"_class_name": "StableDiffusionPipeline"}, "is that of 'StableDiffusionPipeline', expected WanPip"),
    ("5b", INDEX, {"_class_name": "remove"}, "is that of None, expected WanPipeline"),
    ("5b", INDEX, {"transformer": ["diffusers", "WanVACETransformer3DModel"]}, "expected WanTransformer3DModel"),
    ("5b", INDEX, {"transformer": 3}, "names 3 as its transformer"),
    ("5b", INDEX, {"transformer": "remove"}, "names no transformer"),
    ("a14b", INDEX, {"transformer": [None, None]}, "names no transformer"),
    ("a14b", INDEX, {"boundary_ratio": None}, "two transformers and no boundary_ratio"),
    ("a14b", INDEX, {"transformer_2": [None, None]}, "a boundary_ratio and one transformer"),
    ("a14b", INDEX, {"boundary_ratio": 1.5}, "boundary_ratio must be a number above 0 and below 1, not 1.5"),
    ("a14b", INDEX, {"boundary_ratio": "0.9"}, "boundary_ratio must be a number above 0 and below 1, not '0.9'"),
    ("a14b", "scheduler/scheduler_config.json", {"num_train_timesteps": 500}, "500 num_train_timesteps, expected 1000"),
    ("a14b", "transformer/config.json", {"in_channels": 36}, r"conditioned on a picture .*\(36 channels in, 6 out\)"),
    ("a14b", "transformer_2/config.json", {"ffn_dim": 64}, r"experts in .* differ in ffn_dim \(32 and 64\)"),
    ("5b", "transformer/config.json", {"num_layers": "remove"}, "lacks num_layers"),
    ("5b", "transformer/config.json", {"num_layers": 0}, "num_layers must be a whole number from 1 to 1,000, not 0"),
    ("5b", "transformer/config.json", {"attention_head_dim": 11}, "attention_head_dim must be a multiple of 2"),
    ("5b", "transformer/config.json", {"image_dim": 1280}, "says image_dim: 1280, expected None"),
    ("5b", "transformer/config.json", {"patch_size": [1, 4, 4]}, r"says patch_size: \[1, 4, 4\], expected \[1, 2, 2\]"),
    ("5b", "transformer/config.json", {"num_layers": 3}, "Wan22: the weights in .*transformer do not fit this model"),
    ("5b", "transformer/config.json", {"_class_name": "WanModel"}, "does not describe WanTransformer3DModel"),
])  # fmt: skip
def test_folder_of_another_model_raises_one_sentence(
    edited: Callable[..., Path], name: str, file: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Wan22(str(edited(name, file, **changes)), height=4, width=4)
    assert str(caught.value).startswith("Wan22: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("missing", "message"), [
    (INDEX, "holds no model_index.json, so it is not in diffusers' layout"),
    ("transformer/config.json", "transformer/config.json is missing"),
    ("transformer/diffusion_pytorch_model.safetensors.index.json", "transformer"),
    ("transformer/diffusion_pytorch_model-00002-of-00003.safetensors", "its 3 files are not there"),
])  # fmt: skip
def test_missing_file_raises_one_sentence(edited: Callable[..., Path], missing: str, message: str) -> None:
    folder = edited("5b", INDEX)
    (folder / missing).unlink()
    with pytest.raises(UserError, match=message) as caught:
        Wan22(str(folder), height=4, width=4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["config.json", "diffusion_pytorch_model.safetensors"])
def test_missing_vae_file_raises_one_sentence(edited: Callable[..., Path], missing: str) -> None:
    folder = edited("5b", INDEX)
    (folder / "vae" / missing).unlink()
    with pytest.raises(UserError, match=rf"Wan22VAE: .*{missing}"):
        Wan22VAE(str(folder))


@pytest.mark.parametrize("part", [Wan22, Wan22VAE])
@pytest.mark.parametrize(("folder", "message"), [
    ("/nowhere/at/all", "'/nowhere/at/all' is not a folder; name a folder in diffusers' layout"),
    ("", "'' is not a folder"),
    (__file__, "is not a folder"),
])  # fmt: skip
def test_what_is_not_a_folder_raises_one_sentence(part: Any, folder: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        part(folder)
