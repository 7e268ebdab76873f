"""SimCLR: neighbouring clips against all other clips of the batch (arXiv 2002.05709; 2104.14558).

| | paper | here |
|---|---|---|
| temperature | .1 | .1 |
| projection | 3 layers, 2,048 wide, 128 out | 3 layers, 128 wide, 64 out |
| optimizer | LARS | AdamW, as for all four |

Clip k and k + 1 are a pair; the negatives of both are the clips k and k + 1 of all other videos of the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rollforge.ranges import Count, NonNegative, Positive, Share, checked
from rollforge_persistence.base import Persistence, neighbours
from rollforge_persistence.clips import CLIP
from rollforge_persistence.encoder import WIDTH, Hidden, Width, mlp


@checked
class SimCLR(Persistence):
    """InfoNCE within the batch.

    Args:
        width: channels of a feature.
        clip: frames of a clip.
        hidden: width of the projection.
        out: channels of its output.
        temperature: that cosines are divided by.
        lr: the highest learning rate.
        weight_decay: of AdamW.
        warm_up: share of the training in which the learning rate rises.
    """

    def __init__(
        self,
        width: Width = WIDTH,
        clip: Count = CLIP,
        hidden: Hidden = 128,
        out: Hidden = 64,
        temperature: Positive = 0.1,
        lr: Positive = 2e-3,
        weight_decay: NonNegative = 1e-4,
        warm_up: Share = 0.1,
    ) -> None:
        super().__init__(width, clip, lr, weight_decay, warm_up)
        self.temperature = temperature
        self.projection = mlp(3, width, hidden, out)

    def loss(self, views: list[Tensor]) -> Tensor:
        projected = self.together(torch.nn.Sequential(self.encoder, self.projection), views)
        return nt_xent([functional.normalize(each, dim=1) for each in projected], self.temperature)


def nt_xent(views: list[Tensor], temperature: float) -> Tensor:
    """The mean over neighbouring views, both ways; each ``[B, C]``, of unit length."""
    terms = []
    for first, second in neighbours(len(views)):
        both = torch.cat([views[first], views[second]])  # [2 B, C]
        logits = both @ both.T / temperature
        logits = logits.masked_fill(torch.eye(len(both), dtype=torch.bool, device=both.device), -torch.inf)
        other = torch.arange(len(both), device=both.device).roll(len(both) // 2)
        terms.append(functional.cross_entropy(logits, other))
    return torch.stack(terms).mean()
