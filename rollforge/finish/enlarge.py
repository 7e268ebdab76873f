"""Larger frames without a network: what a network for super-resolution is compared with."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rollforge.finish.base import Finish, FinishStream
from rollforge.ranges import Count
from rollforge.state import State


class Enlarge(Finish):
    """Enlarges each frame by interpolation.

    Args:
        factor: of width and height.
        mode: how: ``bicubic``, ``bilinear`` or ``nearest``.
    """

    def __init__(self, factor: Count = 4, mode: Literal["bicubic", "bilinear", "nearest"] = "bicubic") -> None:
        super().__init__()
        self.factor, self.mode = factor, mode

    def stream(self) -> FinishStream:
        return _Frames(self)

    def pixel_size(self, width: int, height: int) -> tuple[int, int]:
        return self.factor * width, self.factor * height


class _Frames(FinishStream):
    """Frame by frame; nothing is carried over."""

    def __init__(self, stage: Enlarge) -> None:
        self.stage = stage

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Tensor:
        larger = interpolate(frames.flatten(0, 1), scale_factor=self.stage.factor, mode=self.stage.mode)
        return larger.clamp(0, 1).unflatten(0, frames.shape[:2])

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        return
