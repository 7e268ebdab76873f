"""A SkyReels-V2 diffusion-forcing transformer on disk or on the hub: finding it, and reading what its config says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollforge.backbones.hub import HubName
from rollforge.backbones.scaled import scaled
from rollforge.backbones.tensors import INDEX, SUFFIXES, Tensors, index_of
from rollforge.backbones.wan.sizes import EvenWidth, Layers, Width
from rollforge.backbones.weights import open_weights
from rollforge.errors import UserError
from rollforge.files.reading import CONFIG, read_json
from rollforge.ranges import Count, NonNegative, fitted

WHO = "SkyReels"
CLASS = "SkyReelsV2Transformer3DModel"
PIPELINES = "SkyReelsV2DiffusionForcing"  # how the classes of the pipelines begin that roll these weights
EXAMPLE = "Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers"
PATTERNS = ("model_index.json", "transformer/*")  # of a hub repository
MAIN = "diffusion_pytorch_model.safetensors"
PUBLISHED: dict[str, Any] = {  # the 1.3B model
    "in_channels": 16, "num_attention_heads": 12, "attention_head_dim": 128, "num_layers": 30, "ffn_dim": 8960,
    "freq_dim": 256, "text_dim": 4096, "eps": 1e-6, "cross_attn_norm": True, "inject_sample_info": True,
}  # fmt: skip
RANGES = {
    "in_channels": Width, "num_attention_heads": Count, "attention_head_dim": EvenWidth, "num_layers": Layers,
    "ffn_dim": Width, "freq_dim": EvenWidth, "text_dim": Width, "eps": NonNegative,
}  # fmt: skip
IMAGE = ("image_dim", "added_kv_proj_dim", "pos_embed_seq_len")  # set in configs of image-to-video models only


@dataclass(frozen=True)
class Transformer:
    """Weights that were found, opened and not yet read, and what the ``config.json`` next to them says."""

    tensors: Tensors
    config: dict[str, Any]


def open_transformer(weights: str) -> Transformer:
    """The transformer that ``weights`` names, under diffusers' names of its parameters.

    Args:
        weights: a folder in diffusers' layout, its ``transformer`` folder, a weights file of ``rollforge fit``, or the
            hub name of a repository in that layout.

    Raises:
        UserError: for a folder of another model, for one that lacks files, and for a config with wrong values.
    """
    path = _local(weights)
    file, config = _of_folder(path) if path.is_dir() else _of_file(path)
    found = scaled(open_weights(file, "backbone", WHO), WHO)
    return Transformer({name.removeprefix("transformer."): stored for name, stored in found.items()}, config)


def read_config(folder: Path) -> dict[str, Any]:
    """What ``config.json`` says of the sizes of the network.

    Raises:
        UserError: for another network than that of text-to-video SkyReels-V2, and for values that no network has.
    """
    file = folder / "config.json"
    if not os.path.lexists(file):
        raise UserError(
            f"{WHO}: {folder} holds no transformer/config.json and no config.json; name a folder of a SkyReels-V2 "
            f"diffusion-forcing model in diffusers' layout, such as that of {EXAMPLE}."
        )
    content = read_json(file, CONFIG, "config")
    found = content.get("_class_name") if isinstance(content, dict) else None
    if found != CLASS:
        raise UserError(
            f"{WHO}: {file} describes a {found or 'model without a _class_name'}; expected {CLASS}, so name the folder "
            f"of a SkyReels-V2 diffusion-forcing model in diffusers' layout, such as that of {EXAMPLE}."
        )
    _check_task(content, file)
    known = fitted(str(file), RANGES, {name: content[name] for name in RANGES if content.get(name) is not None})
    return known | {name: bool(content[name]) for name in ("cross_attn_norm", "inject_sample_info") if name in content}


def _local(weights: str) -> Path:
    path = Path(weights).expanduser()
    if weights.strip() and path.exists():
        return path
    name = HubName.parse(weights, (*SUFFIXES, ".json"))
    if name is None:
        raise UserError(
            f"{WHO}: there is no file or folder {weights!r}; name a folder in diffusers' layout, which holds "
            f"transformer/config.json and the weights, or a hub name such as {EXAMPLE}."
        )
    return name.download(PATTERNS, WHO, companions=("config.json",))


def _of_folder(folder: Path) -> tuple[Path, dict[str, Any]]:
    _check_pipeline(folder)
    inner = folder / "transformer" if (folder / "transformer").is_dir() else folder
    config = read_config(inner)
    for file in (inner / f"{MAIN}{INDEX}", inner / MAIN):
        if file.is_file():
            return file, config
    raise UserError(f"{WHO}: {inner} holds no weights; expected {MAIN}, or its shards with {MAIN}{INDEX}, there.")


def _of_file(file: Path) -> tuple[Path, dict[str, Any]]:
    """A weights file, or the index of its shards. The config next to it is not required: ``fit`` writes none."""
    config = read_config(file.parent) if os.path.lexists(file.parent / "config.json") else {}
    return index_of(file, WHO) or file, config


def _check_pipeline(folder: Path) -> None:
    """Refuses a folder whose ``model_index.json`` says that its transformer was not trained with diffusion forcing."""
    file = folder / "model_index.json"
    if not os.path.lexists(file):
        return
    content = read_json(file, CONFIG, "index of the pipeline")
    pipeline = str(content.get("_class_name")) if isinstance(content, dict) else "nothing"
    if not pipeline.startswith(PIPELINES):
        raise UserError(
            f"{WHO}: {file} names {pipeline}, which is not a diffusion-forcing model and cannot be rolled block by "
            f"block; take one whose name has DF in it, such as {EXAMPLE}."
        )


def _check_task(content: Mapping[str, Any], file: Path) -> None:
    channels, made = (content.get(name) or PUBLISHED["in_channels"] for name in ("in_channels", "out_channels"))
    if any(content.get(name) is not None for name in IMAGE) or channels != made:
        raise UserError(
            f"{WHO}: {file} describes an image-to-video model, which needs features of a picture; take a "
            f"diffusion-forcing model such as {EXAMPLE}, which continues a picture given as data.opening."
        )
    patch = content.get("patch_size", [1, 2, 2])
    if patch != [1, 2, 2]:
        raise UserError(f"{WHO}: {file} has patch_size {patch}; expected [1, 2, 2], as all published models have.")
