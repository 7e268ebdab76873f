"""How far the landscape of a video of the procedural world, which no caption fixes, has left its opening."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rollforge.data.world import Scene, background
from rollforge.state import Stateful


class Landscape(Stateful):
    """Hills, sun and tints, outside of objects, against the mean of the opening. All at half resolution.

    The opening is the first frames in which every object was found: one that was not would count as landscape.

    Args:
        scene: what the video shows.
        opening: how many such frames are the reference.
    """

    def __init__(self, scene: Scene, opening: int) -> None:
        others = np.stack([background(scene, np.random.default_rng(seed)) for seed in range(16)])
        small = functional.avg_pool2d(torch.from_numpy(others).permute(0, 3, 1, 2), 2)
        self.unrelated = torch.pdist(small.flatten(1), p=1).median() / small[0].numel()
        self.opening, self.seen = opening, 0
        self.total, self.weight = torch.zeros_like(small[0]), torch.zeros_like(small[0, :1])

    def changed(self, video: Tensor, visible: Tensor, sure: Tensor) -> Tensor:
        """0 where a frame's landscape is the opening's, 1 where it is as unlike it as another one of the same caption.

        Frames ``[T, 3, h, w]`` in 0..1, of which ``visible [T, 1, h, w]`` are free of objects; the opening is taken
        from those frames where that is ``sure [T]``. Returns ``[T]``, NaN where nothing can be compared.
        """
        taken = sure & (self.seen + sure.cumsum(dim=0) <= self.opening)
        uncovered = visible[taken]
        self.total += (video[taken] * uncovered).sum(dim=0)
        self.weight += uncovered.sum(dim=0)
        self.seen += len(uncovered)
        both = visible * (self.weight > 0)
        distance = (video - self.total / self.weight.clamp(min=1)).abs().mean(dim=1, keepdim=True) * both
        return distance.sum(dim=(1, 2, 3)) / both.sum(dim=(1, 2, 3)) / self.unrelated
