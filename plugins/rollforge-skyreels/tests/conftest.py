"""Tiny SkyReels-V2 models with random weights, in the layout that they are published in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

TINY = {
    "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 24,
    "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "inject_sample_info": True,
}  # fmt: skip


@dataclass(frozen=True)
class Published:
    """diffusers' network, and the folder that it was saved to."""

    network: Any
    folder: Path


@pytest.fixture
def publish(tmp_path: Path) -> Callable[..., Published]:
    """Makes a tiny network, random in every parameter, and saves it as diffusers does."""

    def save(pipeline: str = "SkyReelsV2DiffusionForcingPipeline", shard: str = "10GB", **changes: Any) -> Published:
        from diffusers import SkyReelsV2Transformer3DModel

        torch.manual_seed(0)
        network = SkyReelsV2Transformer3DModel(**TINY | changes).eval()
        for value in network.parameters():
            torch.nn.init.normal_(value, std=0.3)
        network.save_pretrained(tmp_path / "published" / "transformer", max_shard_size=shard)
        (tmp_path / "published" / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
        return Published(network, tmp_path / "published")

    return save
