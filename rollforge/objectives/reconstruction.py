"""Training a video codec on its own clips."""

from __future__ import annotations

from torch import Tensor

from rollforge.errors import UserError
from rollforge.objectives.base import Clips, Objective
from rollforge.pipeline import Pipeline


class Reconstruction(Objective):
    """Trains the codec to reconstruct its input, with the loss that the codec defines."""

    trains = "codec"

    def __call__(self, pipeline: Pipeline, clips: Clips) -> dict[str, Tensor]:
        loss = getattr(pipeline.codec, "loss", None)
        if loss is None:
            raise UserError(f"The codec {type(pipeline.codec).__name__} defines no loss(video): it cannot be trained.")
        losses: dict[str, Tensor] = loss(clips["video"].permute(0, 1, 4, 2, 3).float() / 255)
        return losses
