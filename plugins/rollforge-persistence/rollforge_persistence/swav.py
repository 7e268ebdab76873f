"""SwAV: a clip predicts the prototypes that its neighbour is assigned to (arXiv 2006.09882; 2104.14558).

| | paper | here |
|---|---|---|
| temperature | .1 | .1 |
| Sinkhorn | eps .05, 3 iterations | eps .05, 3 iterations |
| prototypes | 3,000 | 64 |
| prototypes frozen | for the first epoch | for a tenth of the training: an epoch of the world has no end |
| projection | 3 layers, 2,048 wide, 128 out | 3 layers, 128 wide, 64 out |
| optimizer | LARS | AdamW, as for all four |

Targets are made of the same batch, without gradient; neighbouring clips are paired, both ways.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from rollforge.ranges import Count, NonNegative, Positive, Range, Share, checked
from rollforge_persistence.base import Persistence, neighbours
from rollforge_persistence.clips import CLIP
from rollforge_persistence.encoder import WIDTH, Hidden, Width, mlp


@checked
class SwAV(Persistence):
    """Swapped prediction of assignments to prototypes.

    Args:
        width: channels of a feature.
        clip: frames of a clip.
        hidden: width of the projection.
        out: channels of its output.
        prototypes: how many there are.
        temperature: that cosines are divided by.
        epsilon: of the Sinkhorn algorithm: smaller gives harder targets.
        iterations: of the Sinkhorn algorithm.
        frozen: share of the training in which prototypes stay as they are.
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
        prototypes: Annotated[int, Range(1, 65_536)] = 64,
        temperature: Positive = 0.1,
        epsilon: Positive = 0.05,
        iterations: Annotated[int, Range(1, 1000)] = 3,
        frozen: Share = 0.1,
        lr: Positive = 2e-3,
        weight_decay: NonNegative = 1e-4,
        warm_up: Share = 0.1,
    ) -> None:
        super().__init__(width, clip, lr, weight_decay, warm_up)
        self.temperature, self.epsilon, self.iterations, self.frozen = temperature, epsilon, iterations, frozen
        self.projection = mlp(3, width, hidden, out)
        self.prototypes = torch.nn.Parameter(torch.randn(prototypes, out))

    def loss(self, views: list[Tensor]) -> Tensor:
        projected = self.together(torch.nn.Sequential(self.encoder, self.projection), views)
        prototypes = functional.normalize(self.prototypes, dim=1)
        if self.progress < self.frozen:
            prototypes = prototypes.detach()
        cosines = [functional.normalize(each, dim=1) @ prototypes.T for each in projected]
        return swapped(cosines, self.temperature, self.epsilon, self.iterations)


def swapped(cosines: list[Tensor], temperature: float, epsilon: float, iterations: int) -> Tensor:
    """KL from the target of each view to the prediction of its neighbour; cosines to prototypes ``[B, K]``."""
    targets = [sinkhorn(each.detach(), epsilon, iterations) for each in cosines]
    predictions = [(each / temperature).log_softmax(1) for each in cosines]
    terms = []
    for first, second in neighbours(len(cosines)):
        for of, by in ((first, second), (second, first)):
            terms.append(functional.kl_div(predictions[by], targets[of], reduction="batchmean"))
    return torch.stack(terms).mean()


@torch.no_grad()
def sinkhorn(cosines: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Assignments ``[B, K]``: rows sum to 1, and columns, the more iterations the closer, to ``B / K`` each."""
    batch, prototypes = cosines.shape
    log = cosines / epsilon
    for _ in range(iterations):
        log = log - log.logsumexp(0, keepdim=True) - torch.log(torch.tensor(prototypes / batch))
        log = log - log.logsumexp(1, keepdim=True)
    return log.exp()
