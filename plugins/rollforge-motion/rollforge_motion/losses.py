"""Losses of a flow network: against known flow, and from the pictures alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rollforge_motion.estimate import inside, warped

FURTHEST = 400.0
"""Longer motions, in pixels, are left out of the loss, as RAFT does."""


@dataclass(frozen=True)
class Agreement:
    """When a pixel of a pseudo-label is kept (arXiv 2401.00850).

    ``|f + b(x + f)| <= share (|f| + |b(x + f)|) + pixels``, and the mean over the colours, in -0.5..0.5, of
    ``|I1(x + f) - I0|`` below ``colour``.
    """

    share: float = 0.0025
    pixels: float = 0.125
    colour: float = 0.005

    def kept(self, forward: Tensor, backward: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """Which pixels ``[N, H, W]`` agree, of flows ``[N, 2, H, W]`` and pictures ``[N, 3, H, W]`` in -1..1.

        A pixel that leads out of the picture is not kept.
        """
        back = warped(backward, forward)
        allowed = self.share * (forward.norm(dim=1) + back.norm(dim=1)) + self.pixels
        consistent = (forward + back).norm(dim=1) <= allowed
        alike = (warped(after, forward) - before).abs().mean(1) / 2 < self.colour
        return consistent & alike & inside(forward)


def sequence(found: Sequence[Tensor], errors: Sequence[Tensor], kept: Tensor, gamma: float) -> Tensor:
    """The mean error over the kept pixels ``[N, H, W]`` after each iteration, each weighted by ``gamma`` of the next.

    Without a kept pixel it is 0, with a gradient of 0.
    """
    count = kept.sum().clamp(min=1)
    total = found[0].sum() * 0
    for n, error in enumerate(reversed(errors)):
        total = total + gamma**n * torch.where(kept, error, 0).sum() / count
    return total


def supervised(found: Sequence[Tensor], flow: Tensor, kept: Tensor, gamma: float) -> Tensor:
    """RAFT's sequence loss against a known flow ``[N, 2, H, W]``."""
    kept = kept & (flow.norm(dim=1) < FURTHEST)
    return sequence(found, [(each - flow).abs().sum(1) for each in found], kept, gamma)


def warp_loss(found: Sequence[Tensor], before: Tensor, after: Tensor, gamma: float) -> Tensor:
    """The difference of colours where the flow leads: a baseline, no label is used."""
    errors = [(warped(after, each) - before).abs().mean(1) / 2 for each in found]
    return sequence(found, errors, inside(found[-1].detach()), gamma)


def cycle_loss(found: Sequence[Tensor], back: Sequence[Tensor], gamma: float) -> Tensor:
    """The distance from where one ends who follows the flow there and back: a baseline, no label is used."""
    errors = [(one + warped(other, one)).abs().sum(1) for one, other in zip(found, back, strict=True)]
    return sequence(found, errors, inside(found[-1].detach()), gamma)
