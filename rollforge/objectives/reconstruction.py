"""Training a video codec on its own clips."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from rollforge.errors import UserError
from rollforge.objectives.base import Clips, Objective

if TYPE_CHECKING:
    from rollforge.lightning.module import RolloutModule


class Reconstruction(Objective):
    """Trains the codec to give its input back, by the loss the codec itself defines."""

    trains = "codec"

    def __call__(self, module: RolloutModule, clips: Clips) -> dict[str, Tensor]:
        loss = getattr(module.codec, "loss", None)
        if loss is None:
            raise UserError(f"The codec {type(module.codec).__name__} defines no loss(video): it cannot be trained.")
        losses: dict[str, Tensor] = loss(clips["video"].permute(0, 1, 4, 2, 3).float() / 255)
        return losses
