"""What makes two clips of a video differ besides their time: a piece of the picture, its mirror image, its light.

The light of each colour channel changes by itself, so that the tint of a landscape alone does not identify a video.
There is no larger change of hue and no grey, as in the paper's recipe: objects of the world differ in colour.
Sizes and strengths are our reading.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SCALE = (0.5, 1.0)
"""Edge of the piece, as a share of the picture's."""
LIGHT = 0.2
"""Most that contrast, and the brightness of each colour channel, change, as a share."""


def augmented(clips: Tensor) -> Tensor:
    """Clips ``[B, T, 3, H, W]`` in 0..1, each under one random change of all of its frames."""
    batch, frames = clips.shape[:2]
    scale = torch.empty(batch).uniform_(*SCALE)
    mirror = torch.where(torch.rand(batch) < 0.5, -1.0, 1.0)
    shift = torch.empty(batch, 2).uniform_(-1, 1) * (1 - scale)[:, None]
    place = torch.zeros(batch, 2, 3)
    place[:, 0, 0], place[:, 1, 1], place[:, :, 2] = scale * mirror, scale, shift
    # frames of a clip move together: they are channels of one picture
    flat = clips.flatten(1, 2)
    grid = functional.affine_grid(place.to(clips), [*flat.shape], align_corners=False)
    seen = functional.grid_sample(flat, grid, padding_mode="reflection", align_corners=False)
    seen = seen.unflatten(1, (frames, 3))
    contrast = 1 + torch.empty(batch, 1, 1, 1, 1).uniform_(-LIGHT, LIGHT).to(clips)
    bright = 1 + torch.empty(batch, 1, 3, 1, 1).uniform_(-LIGHT, LIGHT).to(clips)
    middle = seen.mean((1, 2, 3, 4), keepdim=True)
    return (((seen - middle) * contrast + middle) * bright).clamp(0, 1)
