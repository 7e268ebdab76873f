"""Tiny models with random weights, saved as ``diffusers`` saves its pipelines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

SMALL = {
    "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "ffn_dim": 32, "freq_dim": 16, "text_dim": 24,
}  # fmt: skip
MEAN, STD = [0.1, -0.2, 0.3, 0.0, -0.1, 0.2], [0.5, 1.0, 2.0, 1.5, 0.8, 1.1]
VAES: dict[str, dict[str, Any]] = {
    "5b": {
        "is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12, "base_dim": 4,
        "decoder_base_dim": 8, "scale_factor_spatial": 16,
    },
    "a14b": {"base_dim": 4},
}  # fmt: skip


def transformer(seed: int, **changed: Any) -> Any:
    """A small network of diffusers, in which no weight has the value that it starts with."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(seed)
    model = WanTransformer3DModel(**{"in_channels": 6, "out_channels": 6, **SMALL, **changed}).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model


@dataclass(frozen=True)
class Release:
    """A folder, and the very models that were saved in it: their transformers, and their VAE."""

    folder: Path
    transformers: tuple[Any, ...]
    vae: Any


def save(folder: Path, vae: Any, *transformers: Any, **options: Any) -> Release:
    """Saves a pipeline without a text encoder, its transformers in shards as they are published."""
    from diffusers import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    nothing = [None, None]
    index: dict[str, Any] = {"_class_name": "WanPipeline", "boundary_ratio": None, "expand_timesteps": False, **options}
    index |= {"text_encoder": nothing, "tokenizer": nothing, "transformer_2": nothing}
    parts = {
        "vae": vae,
        "scheduler": scheduler,
        **dict(zip(("transformer", "transformer_2"), transformers, strict=False)),
    }
    for name, part in parts.items():
        shards = {"max_shard_size": "30KB"} if "transformer" in name else {}
        part.save_pretrained(folder / name, **shards)
        index[name] = ["diffusers", type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return Release(folder, transformers, vae.eval())


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Release]:
    """Small models in the layout of the two releases: ``5b`` with one expert, ``a14b`` with two."""
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    five, fourteen = (
        AutoencoderKLWan(z_dim=6, num_res_blocks=1, latents_mean=MEAN, latents_std=STD, **VAES[name])
        for name in ("5b", "a14b")
    )
    base = tmp_path_factory.mktemp("wan22")
    return {
        "5b": save(base / "5b", five, transformer(3), expand_timesteps=True),
        "a14b": save(base / "a14b", fourteen, transformer(1), transformer(2), boundary_ratio=0.875),
    }


@pytest.fixture
def edited(releases: dict[str, Release], tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy of a folder in which one JSON file has other values; None removes one."""

    def edit(name: str, file: str, **values: Any) -> Path:
        copy = shutil.copytree(releases[name].folder, tmp_path / "edited", dirs_exist_ok=True)
        content = json.loads((copy / file).read_text())
        changed = {key: value for key, value in (content | values).items() if value != "remove"}
        (copy / file).write_text(json.dumps(changed))
        return copy

    return edit
