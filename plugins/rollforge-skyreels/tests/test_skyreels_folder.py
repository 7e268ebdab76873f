"""Which files are loaded, and what is reported of files that do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rollforge_skyreels.network import SkyReels
from safetensors.torch import load_file, save_file

from rollforge.errors import UserError

SIZE: dict[str, Any] = {"height": 4, "width": 6, "dtype": "fp32"}
MAIN = "diffusion_pytorch_model.safetensors"


def same(backbone: SkyReels, network: Any) -> bool:
    expected, found = network.state_dict(), backbone.transformer.state_dict()
    return expected.keys() == found.keys() and all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("shard", ["10GB", "20KB"])
@pytest.mark.parametrize("inner", ["", "transformer"])
def test_a_published_folder_is_loaded_whole(publish: Callable[..., Any], shard: str, inner: str) -> None:
    published = publish(shard=shard)
    assert (len(list((published.folder / "transformer").glob("*.safetensors"))) > 1) == (shard == "20KB")
    backbone = SkyReels(str(published.folder / inner), **SIZE)
    assert same(backbone, published.network)
    spec = backbone.spec
    assert (spec.channels, spec.layers, spec.heads, spec.head_dim, spec.fps) == (4, 2, 2, 12, 6.0)
    assert (spec.block, spec.window) == (5, 25)
    assert not any(value.is_meta for value in (*backbone.parameters(), *backbone.buffers()))


def test_weights_that_fit_wrote_are_loaded_with_the_sizes_given(publish: Callable[..., Any], tmp_path: Path) -> None:
    published = publish(inject_sample_info=False)
    trained = SkyReels(str(published.folder), **SIZE)
    save_file(trained.state_dict(), tmp_path / "backbone.safetensors")
    sizes = {"channels": 4, "heads": 2, "head_dim": 12, "layers": 2, "ffn_dim": 32, "freq_dim": 16, "text_dim": 24}
    again = SkyReels(str(tmp_path / "backbone.safetensors"), **SIZE, **sizes, fps_embedding=False)
    assert same(again, published.network)


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_index(folder: Path, **changes: Any) -> None:
    (folder / "model_index.json").write_text(json.dumps(changes))


def change_tensor(folder: Path, name: str, value: torch.Tensor | None) -> None:
    file = folder / "transformer" / MAIN
    tensors = load_file(file)
    del tensors[name]
    save_file(tensors | ({} if value is None else {name: value}), file)


def lose(folder: Path, pattern: str) -> None:
    next((folder / "transformer").glob(pattern)).unlink()


BIAS = "blocks.0.attn1.to_q.bias"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: change_config(f, _class_name="WanTransformer3DModel"),
            "describes a WanTransformer3DModel; expected",
        ),
        (lambda f: change_config(f, _class_name=None), "describes a model without a _class_name"),
        (lambda f: change_config(f, image_dim=1280), "describes an image-to-video model"),
        (lambda f: change_config(f, in_channels=36), "describes an image-to-video model"),
        (lambda f: change_config(f, patch_size=[2, 2, 2]), r"has patch_size \[2, 2, 2\]; expected \[1, 2, 2\]"),
        (lambda f: change_config(f, num_layers=0), "num_layers must be a whole number"),
        (lambda f: change_config(f, num_layers="two"), "num_layers must be a whole number"),
        (lambda f: change_config(f, num_layers=3), "blocks.2.scale_shift_table is missing"),
        (lambda f: change_config(f, ffn_dim=64), r"is \[32, 24\], expected \[64, 24\]"),
        (lambda f: (f / "transformer" / "config.json").write_text("[]"), "describes a model without a _class_name"),
        (lambda f: (f / "transformer" / "config.json").write_text("{"), "is not readable JSON"),
        (lambda f: change_index(f, _class_name="SkyReelsV2Pipeline"), "not a diffusion-forcing model"),
        (lambda f: lose(f, "config.json"), "holds no transformer/config.json"),
        (lambda f: lose(f, MAIN), "holds no weights; expected diffusion_pytorch_model.safetensors"),
        (lambda f: change_tensor(f, BIAS, None), f"do not fit this model: {BIAS} is missing"),
        (lambda f: change_tensor(f, BIAS, torch.zeros(8)), rf"{BIAS} is \[8\], expected \[24\]"),
        (lambda f: change_tensor(f, BIAS, torch.full((24,), torch.nan)), f"not finite in {BIAS}"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    publish: Callable[..., Any], spoil: Callable[[Path], object], message: str
) -> None:
    folder = publish().folder
    spoil(folder)
    with pytest.raises(UserError, match=message) as caught:
        SkyReels(str(folder), **SIZE)
    assert "\n" not in str(caught.value)


def test_a_lost_shard_is_named(publish: Callable[..., Any]) -> None:
    folder = publish(shard="20KB").folder
    lose(folder, "*-00002-of-*.safetensors")
    with pytest.raises(UserError, match=r"names diffusion_pytorch_model-00002-of-0000\d.safetensors, and 1 of its"):
        SkyReels(str(folder), **SIZE)


@pytest.mark.parametrize("weights", ["", "nothing/here/at/all", "missing.safetensors"])
def test_a_path_to_nothing_is_one_sentence(weights: str) -> None:
    with pytest.raises(UserError, match="there is no file or folder"):
        SkyReels(weights, **SIZE)


def test_a_frame_rate_that_the_network_does_not_know_is_refused() -> None:
    with pytest.raises(UserError, match="must be one of 16, 24, not 30"):
        SkyReels(frame_rate=30)  # type: ignore[arg-type]
