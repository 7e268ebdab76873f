"""Weights from safetensors files, with one sentence for what does not fit."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from rollforge.errors import UserError


def shipped(name: str) -> Path:
    """A weights file that comes with the package."""
    return Path(str(files("rollforge.backbones.pocket") / "weights" / f"{name}.safetensors"))


def load_weights(module: nn.Module, file: str | Path) -> None:
    """Fills ``module`` from a safetensors file; every name and shape must fit."""
    what = type(module).__name__
    if not Path(file).is_file():
        raise UserError(f"{what}: there is no weights file {file}; expected a .safetensors file.")
    try:
        found = load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{what}: {file} is not a readable safetensors file ({error}); fetch or export it again."
        ) from error
    wanted = module.state_dict()
    misfits = [f"{name} is missing" for name in wanted if name not in found][:1]
    misfits += [f"{name} is unexpected" for name in found if name not in wanted][:1]
    shapes = [name for name in wanted if name in found and wanted[name].shape != found[name].shape]
    misfits += [f"{name} is {list(found[name].shape)}, expected {list(wanted[name].shape)}" for name in shapes[:1]]
    if misfits:
        raise UserError(
            f"{what}: the weights in {file} do not fit this model: {'; '.join(misfits)}. Check the sizes in the config."
        )
    broken = next(
        (name for name, value in found.items() if value.is_floating_point() and not torch.isfinite(value).all()), None
    )
    if broken:
        raise UserError(f"{what}: {file} holds numbers that are not finite in {broken}; fetch or export it again.")
    module.load_state_dict(found)
