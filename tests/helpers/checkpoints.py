"""Tiny checkpoints in exactly the layouts that are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from rollforge.backbones.wan.names import to_diffusers
from rollforge.backbones.wan.network import Wan

SHAPES: dict[str, Any] = {
    "channels": 4, "dim": 24, "layers": 2, "heads": 2, "ffn_dim": 40, "freq_dim": 16, "text_dim": 12
}  # fmt: skip
GRID: dict[str, Any] = {"height": 4, "width": 6, "text_len": 5}
UNSEEN: dict[str, Any] = GRID | {"heads": 2}  # what a file does not show
State = dict[str, Tensor]


def state(seed: int = 0, **sizes: Any) -> State:
    """Random weights, every one of them, under the original names."""
    torch.manual_seed(seed)
    made = Wan(**GRID | SHAPES | sizes).state_dict()
    return {name: torch.randn_like(value) * 0.1 for name, value in made.items()}


def wrapped(weights: State) -> State:
    """With the prefix and the infix of FSDP that training leaves in the names."""
    return {
        f"model.{name.replace('.self_attn', '._fsdp_wrapped_module.self_attn')}": value
        for name, value in weights.items()
    }


def family(file: Path, trained: State, averaged: State | None = None) -> Path:
    """A ``.pt`` as Self Forcing and Causal Forcing publish theirs."""
    content: dict[str, Any] = {"generator": wrapped(trained)}
    content |= {"generator_ema": wrapped(averaged)} if averaged else {}
    torch.save(content | {"critic": {"model.x": torch.zeros(1)}, "step": 600}, file)
    return file


def diffusers(weights: State) -> State:
    """Under diffusers' names."""
    return {to_diffusers(name): value for name, value in weights.items()}


def sharded(folder: Path, weights: State, shards: int = 3) -> Path:
    """Shards and their index, as larger models are published; returns the index."""
    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, str] = {}
    for shard in range(shards):
        part = dict(list(weights.items())[shard::shards])
        name = f"diffusion_pytorch_model-{shard + 1:05}-of-{shards:05}.safetensors"
        save_file(part, folder / name)
        index |= dict.fromkeys(part, name)
    file = folder / "diffusion_pytorch_model.safetensors.index.json"
    file.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": index}))
    return file


def lora(weights: State, rank: int = 3, seed: int = 5) -> dict[str, tuple[Tensor, Tensor]]:
    """Matrices for the linear layers of every block, ``[rank, in]`` and ``[out, rank]``, by module."""
    torch.manual_seed(seed)
    layers = [
        name for name in weights if name.startswith("blocks.") and name.endswith(".weight") and "norm" not in name
    ]
    return {
        name.removesuffix(".weight"): (
            torch.randn(rank, weights[name].shape[1]) * 0.2, torch.randn(len(weights[name]), rank) * 0.2
        )
        for name in layers
    }  # fmt: skip


def peft(pairs: dict[str, tuple[Tensor, Tensor]], adapter: str = "", prefix: str = "base_model.model.") -> State:
    """Under PEFT's names."""
    between = f".{adapter}" if adapter else ""
    return {
        f"{prefix}{module}.lora_{part}{between}.weight": value
        for module, pair in pairs.items()
        for part, value in zip("AB", pair, strict=True)
    }
