"""Weights of one part out of the checkpoint that ``rollforge fit`` keeps (``last.ckpt``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rollforge.errors import UserError

MARK = "pytorch-lightning_version"
AVERAGE = "average."
"""What the names of averaged weights begin with."""
INNER = f"{AVERAGE}module."


def is_training_checkpoint(content: dict[str, Any]) -> bool:
    """Whether a file of ``torch.save`` is a checkpoint of Lightning."""
    return MARK in content and isinstance(content.get("state_dict"), dict)


def weights_of(content: dict[str, Any], part: str, file: Path, what: str, ema: bool | None = None) -> dict[str, Any]:
    """The weights of ``part`` (``backbone`` or ``codec``): averaged ones where there are any, unless ``ema`` chooses.

    Raises ``UserError`` where there are none.
    """
    state = content["state_dict"]
    trained = {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}
    average = {name.removeprefix(INNER): value for name, value in state.items() if name.startswith(INNER)}
    if not trained:
        raise UserError(
            f"{what}: {file} is a Lightning checkpoint without weights named {part}.*; expected one of rollforge fit."
        )
    averaged = average if average.keys() >= trained.keys() else {}
    if ema and not averaged:
        raise UserError(f"{what}: {file} holds no averaged weights; leave ema unset to take what there is.")
    return trained if ema is False or not averaged else averaged
