"""Rotary positions with temporal frequencies of their own for each head."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Annotated

import torch
from torch import Tensor

from rollforge.positions import Rope
from rollforge.positions.rope import split_pairs
from rollforge.ranges import CountFromZero, Positive, Range
from rollforge.spec import ModelSpec, ReadPlan, Step


class JitteredRope(Rope):
    """Rotary embedding in which each head has a temporal base of its own.

    Head h has ``theta_h = theta * (1 + jitter * eps_h)`` with eps uniform in -1..1, drawn once from ``seed``, and the
    same for queries and keys. Far from the frames of training, heads then do not all come into phase at once. Source:
    LoL, multi-head RoPE jitter. That the jitter concerns the time axis alone, and is the same in all layers, is our
    reading.

    Args:
        theta: the base before the jitter, and that of height and width.
        jitter: how far bases lie apart, as a share of ``theta``; below 1. 0 is ``Rope``.
        seed: of the draw.
    """

    def __init__(
        self, theta: Positive = 10000.0, jitter: Annotated[float, Range(0, below=1)] = 0.8, seed: CountFromZero = 0
    ) -> None:
        super().__init__(theta)
        self.jitter, self.seed = jitter, seed

    def temporal(self, spec: ModelSpec, step: Step | None = None) -> Tensor:
        pairs = split_pairs(spec.head_dim)[0]
        exponents = torch.arange(pairs, dtype=torch.float64) / pairs
        return self.bases(spec)[:, None] ** -exponents

    def key(self, spec: ModelSpec, step: Step, plan: ReadPlan) -> Hashable:
        return None  # drawn once, so that cached keys are never turned again

    def bases(self, spec: ModelSpec) -> Tensor:
        """theta of each head of the keys, float64; where layers differ in heads, of each group that all have."""
        heads = math.gcd(*(spec.kv_shape(layer)[0] for layer in range(spec.layers)))
        draw = torch.rand(heads, generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)
        return self.theta * (1 + self.jitter * (2 * draw - 1))
