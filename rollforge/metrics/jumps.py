"""Whether objects of the procedural world move no farther than its largest speed allows."""

from __future__ import annotations

import torch
from torch import Tensor

from rollforge.data.world.render import SPEED
from rollforge.state import Stateful

SLACK = 4.0  # pixels: places are known to two pixels in x and in y, and less well where a thing is partly hidden


class Jumps(Stateful):
    """Compares the position of an object with its last known position.

    Args:
        things: how many objects are followed.
    """

    def __init__(self, things: int) -> None:
        self.places, self.frames = torch.zeros(things, 2), torch.full((things,), -1)  # last found, and in which frame

    def share(self, centres: Tensor, found: Tensor, start: int) -> Tensor:
        """Share of the objects that jumped, in each frame ``[T]``.

        Args:
            centres: places ``[T, things, 2]`` in pixels.
            found: whether an object was found there, ``[T, things]``.
            start: index of the first of these frames.
        """
        jumped = torch.zeros(found.shape)
        for t, (places, here) in enumerate(zip(centres, found, strict=True)):
            allowed = SPEED[1] * (start + t - self.frames) + SLACK
            known = here & (self.frames >= 0)
            jumped[t] = (known & ((places - self.places).norm(dim=1) > allowed)).float()
            self.places = torch.where(here[:, None], places, self.places)
            self.frames = torch.where(here, start + t, self.frames)
        return jumped.mean(dim=1)
