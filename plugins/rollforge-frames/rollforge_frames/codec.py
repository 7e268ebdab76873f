"""The codec: a picture made small, without weights."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from rollforge.backbones.base import DecodeStream, VideoCodec
from rollforge.ranges import Range
from rollforge.state import State


class SmallPictures(VideoCodec):
    """Latents are small pictures in -1..1: means of squares of pixels, which are decoded to squares of one colour.

    A latent that is decoded and encoded again is what it was. One latent frame for each pixel frame.

    Args:
        scale: height and width of a square in pixels.
    """

    def __init__(self, scale: Annotated[int, Range(1, 64)] = 4) -> None:
        super().__init__()
        self.scale = scale

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        return functional.avg_pool2d(2 * video.flatten(0, 1) - 1, self.scale).unflatten(0, video.shape[:2])

    def stream(self) -> DecodeStream:
        return _Frames(self.scale)

    def pixel_frames(self, latent_frames: int) -> int:
        return latent_frames

    def pixel_size(self, width: int, height: int) -> tuple[int, int]:
        return self.scale * width, self.scale * height


class _Frames(DecodeStream):
    """Every frame decodes by itself, so nothing is carried from block to block."""

    def __init__(self, scale: int) -> None:
        self.scale = scale

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        pixels = (latents / 2 + 0.5).clamp(0, 1)
        return pixels.repeat_interleave(self.scale, dim=3).repeat_interleave(self.scale, dim=4)

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        pass
