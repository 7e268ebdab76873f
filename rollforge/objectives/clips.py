"""From a training batch to latents."""

from __future__ import annotations

from torch import Tensor

from rollforge.errors import UserError
from rollforge.objectives.base import Clips, Objective
from rollforge.pipeline import Pipeline


def latents_of(objective: Objective, pipeline: Pipeline, clips: Clips) -> Tensor:
    """Latents ``[B, F, C, h, w]`` of a batch: those it holds, or its pixel frames through the codec.

    Raises ``UserError`` for clips of another size than the model's.
    """
    if "latents" in clips:
        latents = clips["latents"].to(pipeline.device)
        if latents.shape[2:] != pipeline.backbone.spec.latent_shape:
            raise UserError(
                f"{type(objective).__name__}: the latents of the clips are {_sizes(latents.shape[2:])}, those of the "
                f"model {_sizes(pipeline.backbone.spec.latent_shape)} (channels x height x width); let "
                "data.train_dataset give latents of that size."
            )
        return latents
    if "video" not in clips:
        raise UserError(
            f"{type(objective).__name__} trains on videos, and data.train_dataset gives prompts alone; take "
            "WorldClips, VideoClips or another dataset of videos."
        )
    (width, height), (rows, columns) = pipeline.size, clips["video"].shape[2:4]
    if (rows, columns) != (height, width):
        raise UserError(
            f"{type(objective).__name__}: the clips are {columns}x{rows} pixels, the model makes {width}x{height}; let "
            "data.train_dataset give clips of that size."
        )
    return pipeline.encode(clips["video"])


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
