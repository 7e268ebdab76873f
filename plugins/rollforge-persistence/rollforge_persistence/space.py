"""The encoder as a feature space of rollforge-features: frames in, persistent features out, without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from rollforge_features.base import Features
from torch import Tensor
from torch.nn import functional

from rollforge.errors import UserError
from rollforge.ranges import Count, UserPath
from rollforge_persistence.encoder import SIZE
from rollforge_persistence.weights import load, shipped, standard


class Persistent(Features):
    """Features of an encoder that was trained to see what persists in a video.

    A frame is a clip of one frame, scaled to 64 by 64 pixels. ``identity`` and ``scene`` are the parts of a feature
    that the linear probe reads colour and shape, or ground and time, off.

    Args:
        part: what of a feature is compared. Default: all of it.
        weights: an ``encoder.safetensors`` of ``rollforge fit``, or a file of ``rollforge probe-encoder --save``.
            Default: the encoder of the procedural world that comes with the package.
        batch: frames at a time.

    Raises:
        UserError: for weights that cannot be read, do not fit, or do not have the part.
    """

    def __init__(
        self,
        part: Literal["all", "identity", "scene"] = "all",
        weights: UserPath | None = None,
        batch: Count = 64,
    ) -> None:
        file = shipped() if weights is None else Path(weights)
        self.name = "persistent" if part == "all" else part
        self.encoder, found = load(file)
        self.standard = standard(found, self.encoder.width)
        if part != "all" and part not in found:
            raise UserError(
                f"Persistent: {file} does not say which part of a feature is {part}; write it with rollforge "
                "probe-encoder --save, or leave part out."
            )
        self.basis, self.batch = found.get(part), batch

    @torch.inference_mode()
    def embed(self, frames: Tensor) -> Tensor:
        return torch.cat([self._some(piece) for piece in frames.cpu().split(self.batch)])

    def _some(self, frames: Tensor) -> Tensor:
        pictures = frames.permute(0, 3, 1, 2).float() / 255
        if pictures.shape[2:] != (SIZE, SIZE):
            pictures = functional.interpolate(pictures, (SIZE, SIZE), mode="bilinear", antialias=True)
        features = self.standard(self.encoder(pictures[:, None]))
        return features if self.basis is None else features @ self.basis.T
