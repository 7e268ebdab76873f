"""Pocket's video codec: a small convolutional autoencoder, one latent frame for each pixel frame.

Latents are batch-normalised, and the decoder is trained on latents with noise added, so that it learns to bring small
errors of the rollout back to sharp images.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from rollforge.backbones.base import DecodeStream, VideoCodec
from rollforge.backbones.weights import load_weights, named, shipped
from rollforge.ranges import NonNegative, Range, UserPath
from rollforge.state import State

GROUPS = 8  # of every norm, at half the width too
Channels = Annotated[int, Range(1, 4_096)]
Width = Annotated[int, Range(2 * GROUPS, 4_096, step=2 * GROUPS)]


class Residual(nn.Module):
    """Two convolutions around a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.layers(x)
        return x + changed


class PocketCodec(VideoCodec):
    """Frame-wise autoencoder: 64x64 pixels to 8x8 latents.

    Args:
        channels: latent channels.
        width: channels at the coarse grid of 8x8; half of it at 16x16.
        noise: largest standard deviation of the noise that training adds to the (unit-variance) latents.
        weights: a safetensors file; ``pocket`` for the weights that come with rollforge; ``random`` for random weights.
            Unset: random weights that ``fit`` trains; ``predict`` and ``test`` refuse them.
    """

    takes_sizes = True

    def __init__(
        self, channels: Channels = 8, width: Width = 96, noise: NonNegative = 0.3, weights: UserPath | None = None
    ) -> None:
        super().__init__()
        half = width // 2
        self.noise, self.weights = noise, weights
        self.encoder = nn.Sequential(
            nn.Conv2d(3, half, 6, stride=4, padding=1), Residual(half),
            nn.Conv2d(half, width, 4, stride=2, padding=1), Residual(width), Residual(width),
            nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1),
        )  # fmt: skip
        self.normalise = nn.BatchNorm2d(channels, affine=False, momentum=0.01)
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), Residual(width), Residual(width), Residual(width),
            nn.Conv2d(width, half * 4, 3, padding=1), nn.PixelShuffle(2), Residual(half), Residual(half),
            nn.Conv2d(half, 32 * 4, 3, padding=1), nn.PixelShuffle(2), Residual(32),
            nn.GroupNorm(GROUPS, 32), nn.SiLU(), nn.Conv2d(32, 3 * 4, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip
        if (file := named(weights)) is not None:
            load_weights(self, shipped("codec") if file == "pocket" else file, "codec")

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        return self.latents(video)

    def stream(self) -> DecodeStream:
        return _Frames(self)

    def pixel_frames(self, latent_frames: int) -> int:
        return latent_frames

    def pixel_size(self, width: int, height: int) -> tuple[int, int]:
        return 8 * width, 8 * height

    def loss(self, video: Tensor) -> dict[str, Tensor]:
        """Reconstruction of pixel frames ``[B, T, 3, H, W]`` in 0..1 from noisy latents, with attention to edges."""
        return self.distance(self.pixels(self._noisy(self.latents(video))), video)

    def decoded(self, video: Tensor) -> Tensor:
        """The same frames from noisy latents, with gradients of the decoder alone; latents are normalised as ever."""
        training, self.normalise.training = self.normalise.training, False
        with torch.no_grad():
            latents = self.latents(video)
        self.normalise.training = training
        return self.pixels(self._noisy(latents))

    def distance(self, decoded: Tensor, video: Tensor) -> dict[str, Tensor]:
        """Losses of decoded frames, both ``[B, T, 3, H, W]``; ``loss`` is the one to minimise."""
        l1, l2 = functional.l1_loss(decoded, video), functional.mse_loss(decoded, video)
        edges = sum(functional.l1_loss(decoded.diff(dim=axis), video.diff(dim=axis)) for axis in (-1, -2))
        return {"loss": l1 + 4 * l2 + edges, "l1": l1, "psnr": -10 * l2.log10()}

    def _noisy(self, latents: Tensor) -> Tensor:
        sigma = self.noise * torch.rand(len(latents), 1, 1, 1, 1, device=latents.device)
        return latents + sigma * torch.randn_like(latents)

    def latents(self, video: Tensor) -> Tensor:
        """Pixel frames ``[B, T, 3, H, W]`` in 0..1 to latents ``[B, T, C, h, w]``, with gradients."""
        latents: Tensor = self.normalise(self.encoder(video.flatten(0, 1) * 2 - 1))
        return latents.unflatten(0, video.shape[:2])

    def pixels(self, latents: Tensor) -> Tensor:
        """Latents ``[B, F, C, h, w]`` to unclamped pixel frames ``[B, F, 3, H, W]``."""
        decoded: Tensor = self.decoder(latents.flatten(0, 1))
        return (decoded / 2 + 0.5).unflatten(0, latents.shape[:2])


class _Frames(DecodeStream):
    """No state: every latent frame decodes by itself."""

    def __init__(self, codec: PocketCodec) -> None:
        self.codec = codec

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        return self.codec.pixels(latents).clamp(0, 1)

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        pass
