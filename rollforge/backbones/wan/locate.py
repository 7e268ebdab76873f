"""Where the weights of a Wan transformer or of a LoRA lie: a file, a folder as the hub has it, or a hub name."""

from __future__ import annotations

import re
from pathlib import Path

from rollforge.backbones.hub import EXAMPLE, HubName
from rollforge.backbones.tensors import INDEX, SHARD, SUFFIXES, TORCH
from rollforge.errors import UserError

MAIN = "diffusion_pytorch_model.safetensors"
PATTERNS = ("transformer/*", "diffusion_pytorch_model*", "config.json")  # of a hub repository; not its text encoder
EXPECTED = f"transformer/ in diffusers' layout, {MAIN} or its shards with their .index.json, or one .pt"
OTHER_PARTS = re.compile(r"vae|t5|clip|text_encoder", re.IGNORECASE)  # next to it in the original layout
LORA_FILES = ("adapter_model.safetensors", "adapter_model.bin", "pytorch_lora_weights.safetensors")
LORA_PATTERNS = (*LORA_FILES, "adapter_model*", "adapter_config.json", "*.safetensors")
SHARDED = ".metadata"  # of a checkpoint of fit under ModelParallelStrategy, which is a folder


def locate(weights: str, what: str) -> Path:
    """The weights file, or index of shards, that ``weights`` means. Raises ``UserError`` where there is none."""
    path = Path(weights).expanduser()
    if weights.strip() and path.is_dir():
        return _of_folder(path, what)
    if weights.strip() and path.is_file():
        return path
    name = HubName.parse(weights, (*SUFFIXES, ".json"))
    if name is None:
        raise UserError(
            f"{what}: there is no weights file or folder {weights!r}; name a .safetensors or .pt file, a folder, or a "
            f"hub name such as Wan-AI/Wan2.1-T2V-1.3B or {EXAMPLE}."
        )
    found = name.download(PATTERNS, what, companions=("config.json",))
    return found if found.is_file() else _of_folder(found, what)


def locate_lora(weights: str, what: str) -> Path:
    """The file of a LoRA, or index of its shards. Raises ``UserError`` where there is none."""
    path = Path(weights).expanduser()
    name = None if path.exists() else HubName.parse(weights, (*SUFFIXES, ".json"))
    if name:
        path = name.download(LORA_PATTERNS, what, companions=("adapter_config.json",))
    if not path.is_dir():
        if path.exists() and not path.name.endswith((*SUFFIXES, INDEX)):
            raise UserError(f"{what}: {path} is not a LoRA file; expected {', '.join(SUFFIXES)}.")
        return path
    known = next((path / each for each in LORA_FILES if (path / each).is_file()), None)
    found = known or _only(path, f"*{INDEX}", what) or _only(path, "*.safetensors", what) or _pickled(path, what)
    if found is None:
        raise UserError(f"{what}: the folder {path} holds no LoRA; expected {', '.join(LORA_FILES)}, or name the file.")
    return found


def _of_folder(folder: Path, what: str) -> Path:
    if (folder / SHARDED).is_file():
        raise UserError(
            f"{what}: {folder} is a sharded checkpoint of fit; name backbone.safetensors, which fit writes next to it."
        )
    inner = folder / "transformer" if (folder / "transformer").is_dir() else folder
    found = _only(inner, f"*{INDEX}", what) or _safetensors(inner, what) or _pickled(inner, what)
    if found is None:
        raise UserError(
            f"{what}: the folder {folder} holds no weights of a Wan transformer; expected {EXPECTED}: download them "
            "there, or name the file."
        )
    return found


def _safetensors(folder: Path, what: str) -> Path | None:
    return folder / MAIN if (folder / MAIN).is_file() else _only(folder, "*.safetensors", what)


def _pickled(folder: Path, what: str) -> Path | None:
    return next((found for suffix in TORCH if (found := _only(folder, f"*{suffix}", what))), None)


def _only(folder: Path, pattern: str, what: str) -> Path | None:
    """The one file of a kind that may be a transformer, or one of its shards; several leave it open which is meant."""
    found = sorted(
        file for file in folder.glob(pattern)
        if file.is_file() and not file.name.startswith(".") and not OTHER_PARTS.search(file.name)
    )  # fmt: skip
    shards = {match[1] for file in found if (match := SHARD.fullmatch(file.name))}
    if len(found) > 1 and not (len(shards) == 1 and all(SHARD.fullmatch(file.name) for file in found)):
        names = ", ".join(file.name for file in found[:4])
        raise UserError(f"{what}: {folder} holds several files of weights ({names}); name the one that is meant.")
    return found[0] if found else None
