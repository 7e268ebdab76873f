"""What a linear layer and the nearest neighbours read off features of a frozen encoder, with intervals over videos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from rollforge.data.world import WORDS
from rollforge_persistence.labels import LABELS, Labelled

NEIGHBOURS = 10
DECAY = 1e-3
"""Weight of the squared weights in the loss of the linear layer."""
Embed = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Standard:
    """How features are brought to mean 0 and deviation 1: those of the videos that the probe is fitted to.

    Args:
        mean: of each channel, ``[D]``.
        scale: standard deviation of each channel, ``[D]``.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Standard:
        """Of features ``[N, D]``."""
        return cls(features.mean(0), features.std(0).clamp(min=1e-6))

    def __call__(self, features: Tensor) -> Tensor:
        """Features ``[N, D]``, standardised."""
        return (features - self.mean) / self.scale


@dataclass(frozen=True)
class Probe:
    """Right answers of both readings for each held-out video, ``[N]`` by label; and the linear layers ``[K, D]``."""

    linear: dict[str, Tensor]
    neighbours: dict[str, Tensor]
    layers: dict[str, Tensor]
    standard: Standard


def probe(embed: Embed, seen: Labelled, held: Labelled) -> Probe:
    """Fits both readings on videos ``seen`` and applies them to those ``held`` out."""
    known, asked = embed(seen.clips), embed(held.clips)
    standard = Standard.of(known)
    known, asked = standard(known), standard(asked)
    linear, layers, neighbours = {}, {}, {}
    for name in LABELS:
        layer = linear_layer(known, seen.labels[name], len(WORDS[name]))
        layers[name] = layer.weight.detach()
        linear[name] = (layer(asked).argmax(1) == held.labels[name]).float()
        neighbours[name] = (nearest(known, seen.labels[name], asked) == held.labels[name]).float()
    return Probe(linear, neighbours, layers, standard)


def linear_layer(features: Tensor, labels: Tensor, classes: int) -> nn.Linear:
    """Multinomial logistic regression of features ``[N, D]``, by L-BFGS from weights of 0."""
    layer = nn.Linear(features.shape[1], classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(layer(features), labels) + DECAY * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return layer.requires_grad_(False)


def nearest(known: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
    """The label that most of the nearest known features have, by cosine: ``[N, D]``, ``[N]``, ``[M, D]`` to ``[M]``."""
    cosine = functional.normalize(asked, dim=1) @ functional.normalize(known, dim=1).T
    close = labels[cosine.topk(min(NEIGHBOURS, len(known)), dim=1).indices]  # [M, k]
    return functional.one_hot(close).sum(1).argmax(1)


@torch.no_grad()
def pixels(clips: Tensor) -> Tensor:
    """The baseline: the mean frame of a clip at 16 by 16 pixels, ``[N, 768]``."""
    return functional.adaptive_avg_pool2d(clips.mean(1), 16).flatten(1)
