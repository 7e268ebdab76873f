"""Checkpoint files of ``fit``, read as tensors and plain data."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from rollforge.errors import UserError


def read_checkpoint(path: Path | str, map_location: Any = "cpu", weights_only: bool = True) -> dict[str, Any]:
    """The content of a checkpoint file.

    Args:
        path: the file.
        map_location: where its tensors are put; on ``meta`` they are not read.
        weights_only: whether it may hold tensors and plain data only. Anything else can run code when it is read.

    Raises:
        UserError: for a file that is not there, is damaged, or holds more than tensors and plain data.
    """
    if "://" in str(path):
        raise UserError(f"The checkpoint {path} is on another machine; fetch it, and give the file.")
    if not Path(path).is_file():
        raise UserError(f"There is no checkpoint file {path}; check the path.")
    try:
        content = torch.load(path, map_location=map_location, weights_only=weights_only)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, LookupError, AttributeError, OSError) as error:
        raise UserError(
            f"The checkpoint {path} is damaged or holds more than tensors, which could run code; take another."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__} and is not a checkpoint of fit; take another.")
    return content
