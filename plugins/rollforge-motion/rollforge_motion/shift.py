"""Domains that a network of the procedural world has not seen, and whose motion is known all the same."""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch

from rollforge.backbones.base import VideoCodec
from rollforge.data.world import Scene
from rollforge_motion.truth import Frames, Motion, textured, world

Domain = Literal["world", "codec", "textures"]
NOISE = 0.3
"""Standard deviation of the noise on the latents, whose own is 1: the most that Pocket's codec was trained with."""


def clip(domain: Domain, scene: Scene, seed: int, frames: int, noise: float = NOISE) -> tuple[Frames, Motion]:
    """A clip of a domain, uint8 ``[T, H, W, 3]``, and its motion.

    ``codec``: the world through Pocket's codec, with noise on the latents of each frame, as rollouts have it.
    ``textures``: the same motion in other textures. ``world``: as it is.
    """
    if domain == "textures":
        return textured(scene, seed, frames)
    video, motion = world(scene, seed, frames)
    return (through_codec(video, seed, noise) if domain == "codec" else video), motion


@torch.no_grad()
def through_codec(video: Frames, seed: int, noise: float) -> Frames:
    """Frames ``[T, H, W, 3]`` encoded, with noise added to their latents, and decoded."""
    codec = _codec()
    latents = codec.encode(torch.from_numpy(video).permute(0, 3, 1, 2)[None].float() / 255)
    drawn = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    pixels = codec.decode(latents + noise * drawn)[0].permute(0, 2, 3, 1)
    return (pixels * 255).round().to(torch.uint8).numpy()


@cache
def _codec() -> VideoCodec:
    from rollforge.backbones import PocketCodec

    return PocketCodec(weights="pocket").eval().requires_grad_(False)
