"""MoCo: keys of a slow encoder, negatives from a queue of earlier keys (arXiv 1911.05722, 2003.04297; 2104.14558).

| | paper | here |
|---|---|---|
| temperature | .1 | .1 |
| momentum, first | .994 | .994 |
| queue | 65,536 | 2,048 |
| projection | 3 layers, 2,048 wide, 128 out, no batch norm | 3 layers, 128 wide, 64 out, no batch norm |
| optimizer | SGD | AdamW, as for all four |

Each clip is the query once, the others are positives, each in a softmax of its own against the queue.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from rollforge.ranges import Count, NonNegative, Positive, Range, Share, checked
from rollforge_persistence.base import WithMomentum, ordered_pairs
from rollforge_persistence.clips import CLIP
from rollforge_persistence.encoder import WIDTH, Hidden, Width, mlp


@checked
class MoCo(WithMomentum):
    """InfoNCE of queries, keys of the slow encoder, and a queue of earlier keys.

    Args:
        width: channels of a feature.
        clip: frames of a clip.
        hidden: width of the projection.
        out: channels of a key.
        queue: keys that are kept.
        temperature: that cosines are divided by.
        first_momentum: of the slow encoder, at the first step; 1 at the last.
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
        queue: Annotated[int, Range(1, 262_144)] = 2048,
        temperature: Positive = 0.1,
        first_momentum: Share = 0.994,
        lr: Positive = 2e-3,
        weight_decay: NonNegative = 1e-4,
        warm_up: Share = 0.1,
    ) -> None:
        super().__init__(width, clip, lr, weight_decay, warm_up)
        self.temperature, self.first_momentum = temperature, first_momentum
        self.projection = mlp(3, width, hidden, out)
        self.copy()
        self.queue: Tensor
        self.register_buffer("queue", functional.normalize(torch.randn(queue, out), dim=1))
        self.place: Tensor
        self.register_buffer("place", torch.zeros((), dtype=torch.long))  # of the oldest key

    def loss(self, views: list[Tensor]) -> Tensor:
        queries = [functional.normalize(each, dim=1) for each in self.together(self.fast, views)]
        with torch.no_grad():
            keys = [functional.normalize(each, dim=1) for each in self.together(self.slow, views)]
        found = info_nce(queries, keys, self.queue.clone(), self.temperature)
        self.enqueue(torch.cat(keys))
        return found

    def enqueue(self, keys: Tensor) -> None:
        """Puts keys in the place of the oldest."""
        keys = keys[-len(self.queue) :]
        rows = (self.place + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[rows] = keys.to(self.queue)
        self.place.copy_((self.place + len(keys)) % len(self.queue))


def info_nce(queries: list[Tensor], keys: list[Tensor], queue: Tensor, temperature: float) -> Tensor:
    """The mean over all queries and their positives. All ``[B, C]`` and the queue ``[N, C]`` of unit length."""
    terms = []
    for query, key in ordered_pairs(len(queries)):
        positive = (queries[query] * keys[key]).sum(1, keepdim=True)
        logits = torch.cat([positive, queries[query] @ queue.T], dim=1) / temperature
        terms.append((logits.logsumexp(1) - logits[:, 0]).mean())
    return torch.stack(terms).mean()
