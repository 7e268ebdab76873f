"""Noise that is correlated over time and can still be drawn block by block, in any order.

Both priors are first-order autoregressive (AR(1)) processes over the frames of a video, for the first noise only; the
noise that is added between denoising steps stays independent. No code of FLEX (arXiv 2602.14027) is public: form and
number of ``AntiphaseNoise`` follow an independent reimplementation of it, in SAGA's code (arXiv 2607.08020).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from torch import Tensor

from rollforge.noise import IndependentNoise, Shape, normal
from rollforge.ranges import Finite, Range

NEGLIGIBLE = 4e-8  # weight of what is left out of a recursion; float32 resolves 6e-8
SECOND = -1  # the level at which the second process of SAN noise is drawn; samplers count theirs from 0

Correlation = Annotated[float, Range(-0.99, 0.99)]  # each block draws terms(rho) frames, without end near 1


class AntiphaseNoise(IndependentNoise):
    """Starts every frame from noise that is negatively correlated with the frame before it.

    ``eps_0 = xi_0`` and ``eps_k = rho eps_(k-1) + sqrt(1 - rho^2) xi_k``, where ``xi`` is the noise that
    ``IndependentNoise`` draws. The variance stays 1. The recursion of a frame begins so few frames earlier (48 at
    rho -0.7) that what is left out has no weight in float32, so any block can be drawn alone.

    Args:
        rho: correlation of a frame with the next one. 0 is ``IndependentNoise``, bit for bit.
        scope: over all frames of the ``video``, or again in each ``block``.
    """

    def __init__(self, rho: Correlation = -0.7, scope: Literal["video", "block"] = "video") -> None:
        self.rho, self.scope = rho, scope

    def draw(self, seed: int, sample: int, frames: range, level: int, shape: Shape) -> Tensor:
        if level:
            return super().draw(seed, sample, frames, level, shape)
        first = frames.start if self.scope == "block" else 0
        return autoregressive(lambda frame: normal(seed, sample, frame, 0, shape), frames, self.rho, first)


class SANNoise(IndependentNoise):
    """Starts every frame from a slow and an alternating process added up, as SAGA does (arXiv 2607.08020).

    ``z = cos(angle) z_lf + sin(angle) z_hf``, where ``z_lf`` and ``z_hf`` are independent of each other, with variance
    1 and correlations ``rho`` and ``-rho`` of a frame with the next one, over all frames of the video.

    Args:
        rho: correlation of the slow process.
        angle: in radians; how the two are mixed.
    """

    def __init__(self, rho: Correlation = 0.9, angle: Finite = math.pi / 4) -> None:
        self.rho, self.angle = rho, angle

    def draw(self, seed: int, sample: int, frames: range, level: int, shape: Shape) -> Tensor:
        if level:
            return super().draw(seed, sample, frames, level, shape)
        slow, alternating = (
            autoregressive(lambda frame, own=own: normal(seed, sample, frame, own, shape), frames, rho)  # type: ignore[misc]
            for own, rho in ((0, self.rho), (SECOND, -self.rho))
        )
        return math.cos(self.angle) * slow + math.sin(self.angle) * alternating


def terms(rho: float) -> int:
    """How many frames of independent noise a frame is made of."""
    return math.ceil(math.log(NEGLIGIBLE) / math.log(abs(rho))) if rho else 1


def autoregressive(drawn: Callable[[int], Tensor], frames: range, rho: float, first: int = 0) -> Tensor:
    """These frames of an AR(1) process with variance 1 that begins at frame ``first``, ``[F, C, H, W]``.

    ``drawn`` gives the independent noise ``[C, H, W]`` of a frame. Each frame is the same whatever else is asked for.
    """
    starts = {frame: max(first, frame - terms(rho) + 1) for frame in frames}
    fresh = math.sqrt(1 - rho**2)
    noise: dict[int, Tensor] = {}
    for now in range(starts[frames[0]], frames.stop):
        independent = drawn(now)
        for frame, start in starts.items():
            if now == start:
                noise[frame] = independent
            elif start < now <= frame:
                noise[frame] = rho * noise[frame] + fresh * independent
    return torch.stack([noise[frame] for frame in frames])
