"""BYOL: a predictor of the keys of a slow encoder, without negatives (arXiv 2006.07733; 2104.14558).

| | paper | here |
|---|---|---|
| momentum, first | .996 | .996 |
| projection and predictor | 2 layers, 4,096 wide, 256 out, batch norm | 2 layers, 256 wide, 64 out, batch norm |
| optimizer | LARS | AdamW, as for all four |

The loss is minus the cosine of the prediction to the key of each other clip. The MLPs need batch norm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rollforge.ranges import Count, NonNegative, Positive, Share, checked
from rollforge_persistence.base import WithMomentum, ordered_pairs
from rollforge_persistence.clips import CLIP
from rollforge_persistence.encoder import WIDTH, Hidden, Width, mlp


@checked
class BYOL(WithMomentum):
    """Minus the cosine of predictions to the keys of a slow encoder.

    Args:
        width: channels of a feature.
        clip: frames of a clip.
        hidden: width of the projection and of the predictor.
        out: channels of a key.
        first_momentum: of the slow encoder, at the first step; 1 at the last.
        lr: the highest learning rate.
        weight_decay: of AdamW.
        warm_up: share of the training in which the learning rate rises.
    """

    def __init__(
        self,
        width: Width = WIDTH,
        clip: Count = CLIP,
        hidden: Hidden = 256,
        out: Hidden = 64,
        first_momentum: Share = 0.996,
        lr: Positive = 2e-3,
        weight_decay: NonNegative = 1e-4,
        warm_up: Share = 0.1,
    ) -> None:
        super().__init__(width, clip, lr, weight_decay, warm_up)
        self.first_momentum = first_momentum
        self.projection = mlp(2, width, hidden, out, batch_norm=True)
        self.predictor = mlp(2, out, hidden, out, batch_norm=True)
        self.copy()

    def loss(self, views: list[Tensor]) -> Tensor:
        predictions = self.together(nn.Sequential(self.encoder, self.projection, self.predictor), views)
        with torch.no_grad():
            keys = self.together(self.slow, views)
        return minus_cosine(predictions, keys)


def minus_cosine(predictions: list[Tensor], keys: list[Tensor]) -> Tensor:
    """The mean over all queries and the other clips, ``[B, C]`` each."""
    terms = [
        -functional.cosine_similarity(predictions[query], keys[key], dim=1).mean()
        for query, key in ordered_pairs(len(keys))
    ]
    return torch.stack(terms).mean()
