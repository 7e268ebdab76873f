"""Weights into modules, with one sentence for what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn

from rollforge.backbones.low_rank import merged_when_read
from rollforge.backbones.tensors import TORCH, Tensors, check_kind, numbers, open_file, open_torch, tensors_of
from rollforge.backbones.training_checkpoint import is_training_checkpoint, weights_of
from rollforge.errors import UserError

RANDOM = "random"
"""The value of ``weights`` that requests random weights. Unset: random weights to be trained."""


def named(weights: str | None) -> str | None:
    """Returns the weights to load; None for random weights."""
    return None if weights == RANDOM else weights


def shipped(name: str) -> Path:
    """A weights file that comes with the package."""
    return Path(str(files("rollforge.backbones.pocket") / "weights" / f"{name}.safetensors"))


def load_weights(module: nn.Module, file: str | Path, part: str = "backbone") -> None:
    """Fills ``module``, in its own dtype, from a file of weights; every name and shape must fit.

    Of a checkpoint of ``fit`` the weights of ``part`` are taken.
    """
    what, path = type(module).__name__, Path(file).expanduser()
    found = open_weights(path, part, what)
    check_fit(module.state_dict(), found, what, file)
    module.load_state_dict({name: numbers(stored, what) for name, stored in found.items()})


def open_weights(file: Path, part: str, what: str) -> Tensors:
    """The tensors of a file of weights, opened and not read; of a checkpoint of ``fit`` those of ``part``."""
    if file.suffix not in TORCH:
        return open_file(file, what)
    check_kind(file, what)
    content = open_torch(file, what)
    if is_training_checkpoint(content):
        content = weights_of(content, part, file, what)
    return merged_when_read(tensors_of(content, file, what))


def assign_weights(
    module: nn.Module, found: Tensors, where: str | Path, dtype: torch.dtype, what: str | None = None
) -> None:
    """Gives a ``module`` on the meta device its weights in ``dtype``, one by one: no second copy is ever held.

    Every name and shape must fit; ``where`` is what the user knows the weights as, and ``what`` the component (default:
    the class of ``module``).
    """
    what = what or type(module).__name__
    check_fit(module.state_dict(), found, what, where)
    module.load_state_dict({name: numbers(stored, what, dtype) for name, stored in found.items()}, assign=True)


def check_fit(
    wanted: Mapping[str, Tensor], found: Mapping[str, Tensor] | Tensors, what: str, where: str | Path
) -> None:
    """Raises ``UserError`` with the first name that is missing, is not wanted, or has another shape."""
    misfits = [f"{name} is missing" for name in wanted if name not in found][:1]
    misfits += [f"{name} is unexpected" for name in found if name not in wanted][:1]
    shapes = [name for name in wanted if name in found and tuple(wanted[name].shape) != tuple(found[name].shape)]
    misfits += [f"{name} is {list(found[name].shape)}, expected {list(wanted[name].shape)}" for name in shapes[:1]]
    if misfits:
        raise UserError(
            f"{what}: the weights in {where} do not fit this model: {'; '.join(misfits)}. Check the sizes in the "
            "config, and that it is the file meant."
        )
