"""Training a stage after the codec, such as video super-resolution, on what the codec makes of clips."""

from __future__ import annotations

import torch
from torch import Tensor

from rollforge.errors import UserError
from rollforge.finish.base import Finish
from rollforge.objectives.base import Clips, Objective
from rollforge.objectives.multigrid import reduced
from rollforge.pipeline import Pipeline
from rollforge.ranges import NonNegative


class Restoration(Objective):
    """Trains the stage ``finish`` to make true frames from decoded ones, with the loss that the stage defines.

    A clip has the size of finished frames. It is reduced to that of the codec (each pixel is the mean of those it
    covers), encoded and decoded: what the stage sees in a rollout.

    Args:
        noise: largest standard deviation of the noise that is added to the latents, which have about unit variance in
            most codecs; for errors of a rollout. Drawn for each clip, uniformly from 0.
    """

    trains = "finish"

    def __init__(self, noise: NonNegative = 0.0) -> None:
        self.noise = noise

    @torch.no_grad()
    def prepare(self, pipeline: Pipeline, clips: Clips) -> Clips:
        """Adds the decoded frames. Raises ``UserError`` for clips of another size than finished frames."""
        if "video" not in clips:
            raise UserError("Restoration needs pixel frames, and data.train_dataset gives none; take WorldClips.")
        video, (width, height) = clips["video"], pipeline.size
        wanted = _stage(pipeline).pixel_size(width, height)
        if (size := (video.shape[3], video.shape[2])) != wanted:
            raise UserError(
                f"Restoration needs clips of {wanted[0]}x{wanted[1]} pixels, the size of finished frames, and those of "
                f"data.train_dataset are {size[0]}x{size[1]}; set their size."
            )
        latents = pipeline.encode(reduced(video, height, width))
        sigma = self.noise * torch.rand(len(latents), 1, 1, 1, 1, device=latents.device)
        decoded = pipeline.codec.decode(latents + sigma * torch.randn_like(latents)).clamp(0, 1)
        return {**clips, "video": video[:, : decoded.shape[1]], "decoded": decoded}

    def __call__(self, pipeline: Pipeline, clips: Clips) -> dict[str, Tensor]:
        stage = _stage(pipeline)
        loss = getattr(stage, "loss", None)
        if loss is None:
            raise UserError(
                f"The finish {type(stage).__name__} defines no loss(decoded, frames): it cannot be trained."
            )
        if "decoded" not in clips:
            clips = self.prepare(pipeline, clips)
        losses: dict[str, Tensor] = loss(clips["decoded"], clips["video"].permute(0, 1, 4, 2, 3).float() / 255)
        return losses


def _stage(pipeline: Pipeline) -> Finish:
    if pipeline.finish is None:
        raise UserError("Restoration trains model.finish, the stage after the codec, and the config names none.")
    return pipeline.finish
