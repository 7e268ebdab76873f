"""Finding and reading the weights of Wan's codecs: a file, a folder as the hub has it, or a hub id."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rollforge.backbones.hub import HubName
from rollforge.backbones.scaled import scaled
from rollforge.backbones.tensors import SUFFIXES, numbers, open_file
from rollforge.backbones.weights import check_fit
from rollforge.errors import UserError
from rollforge.files.reading import CONFIG, read_json

ORIGINAL = "Wan2.1_VAE.pth"
DIFFUSERS = "diffusion_pytorch_model.safetensors"
PATTERNS = ("vae/config.json", f"vae/{DIFFUSERS}", ORIGINAL)  # of a hub repository


def locate(weights: str) -> Path:
    """The VAE's weights file that ``weights`` means: a file, a folder of either published layout, or a hub id."""
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        return _in_folder(path)
    name = HubName.parse(weights, SUFFIXES)
    if name is None:
        raise UserError(
            f"WanVAE: there is nothing at {weights}; expected {ORIGINAL}, a folder that holds it or vae/ in diffusers' "
            "layout, or a hub name such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers."
        )
    found = name.download(PATTERNS, "WanVAE", companions=("config.json",))
    return found if found.is_file() else _in_folder(found)


def config_of(file: Path) -> dict[str, Any]:
    """What the ``config.json`` next to a weights file says of the VAE; empty where there is none for it."""
    config = file.parent / "config.json"
    if not os.path.lexists(config):
        return {}
    content = read_json(config, CONFIG, "VAE's config")
    ours = isinstance(content, dict) and content.get("_class_name") == "AutoencoderKLWan"
    return content if ours else {}


def read(file: Path, what: str) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of a ``.pth`` file, which is opened for tensors only."""
    return {name: numbers(stored, what) for name, stored in scaled(open_file(file, what), what).items()}


def fill(module: nn.Module, found: dict[str, Tensor], file: Path, what: str) -> None:
    """Puts tensors into ``module``, which may have none of its own yet; every name and shape must fit."""
    check_fit(module.state_dict(), found, what, file)
    module.load_state_dict(found, assign=True)


def original_to_diffusers(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of the original release to those of diffusers; the latter stay as they are."""
    if "decoder.conv1.weight" not in found:
        return found
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    renamed: dict[str, Tensor] = convert_wan_vae_to_diffusers(dict(found))
    return renamed


def _in_folder(folder: Path) -> Path:
    alone = folder / DIFFUSERS  # in the original release the file of this name is the transformer
    for file in (folder / "vae" / DIFFUSERS, folder / ORIGINAL, alone):
        if file.is_file() and (file != alone or config_of(file)):
            return file
    raise UserError(
        f"WanVAE: {folder} holds none of vae/{DIFFUSERS}, {ORIGINAL} and {DIFFUSERS} with the VAE's config.json; name "
        "the weights file, or download one of them there."
    )


def missing(what: str, package: str) -> UserError:
    """The error for an optional package that is not there."""
    return UserError(
        f"{what} needs the package {package}, which is not installed; install it with pip install 'rollforge[wan]'."
    )
