"""What makes two clips of a video differ besides their time: a random piece of the picture, its mirror image, its light.

No change of hue and no grey: colour is what tells the objects of the world apart. The paper's recipe has both; this is
our reading at this size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SCALE = (0.7, 1.0)
"""Edge of the piece, as a share of the picture's."""
LIGHT = 0.2
"""Most that brightness and contrast change, as a share."""


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
    bright, contrast = 1 + torch.empty(2, batch, 1, 1, 1).uniform_(-LIGHT, LIGHT).to(clips)
    middle = seen.mean((1, 2, 3), keepdim=True)
    return (((seen - middle) * contrast + middle) * bright).clamp(0, 1).unflatten(1, (frames, 3))
