"""Tiny models with random weights, saved as ``transformers`` saves them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
PREPROCESSOR = {
    "do_resize": True,
    "size": {"shortest_edge": 18},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 16, "width": 16},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.4, 0.5, 0.3],
    "image_std": [0.2, 0.25, 0.3],
    "do_convert_rgb": True,
}


def save(model: Any, folder: Path, processor: str) -> Path:
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR | {"image_processor_type": processor}))
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of weights by kind of model."""
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModel,
        CLIPVisionModelWithProjection,
        Dinov2Config,
        Dinov2Model,
        ViTConfig,
        ViTModel,
    )

    torch.manual_seed(0)
    base = tmp_path_factory.mktemp("models")
    clip = CLIPVisionConfig(**SMALL, intermediate_size=32, projection_dim=12)
    vit = ViTConfig(**SMALL, intermediate_size=32)
    return {
        "dinov2": save(Dinov2Model(Dinov2Config(**SMALL)), base / "dinov2", "BitImageProcessor"),
        "vit": save(ViTModel(vit, add_pooling_layer=False), base / "vit", "BitImageProcessor"),
        "clip": save(CLIPVisionModelWithProjection(clip), base / "clip", "CLIPImageProcessor"),
        "tower": save(CLIPVisionModel(clip), base / "tower", "CLIPImageProcessor"),
    }


@pytest.fixture
def noise() -> Callable[..., torch.Tensor]:
    """Frames of smooth noise, uint8 ``[T, H, W, 3]``."""

    def make(frames: int, seed: int = 0) -> torch.Tensor:
        coarse = torch.rand(frames, 3, 4, 6, generator=torch.Generator().manual_seed(seed))
        fine = torch.nn.functional.interpolate(coarse, (24, 36), mode="bilinear")
        return (fine * 255).byte().permute(0, 2, 3, 1).contiguous()

    return make
