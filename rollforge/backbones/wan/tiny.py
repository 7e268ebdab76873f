"""A tiny decoder for Wan 2.1's latents: many times faster than the VAE, a little less sharp.

The architecture is that of TAEHV by Ollin Boer Bohan (https://github.com/madebyollin/taehv), whose weights for Wan 2.1
are ``taew2_1.pth``: two-dimensional convolutions, and memory blocks that read the previous frame at their own depth. It
takes latents as the backbone makes them, without mean and standard deviation, and gives pixels in 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from rollforge.backbones.base import DecodeStream
from rollforge.backbones.wan import codec_weights
from rollforge.backbones.wan.placement import Channels, DType, PlacedCodec, PlacedStream
from rollforge.backbones.weights import named
from rollforge.errors import UserError
from rollforge.ranges import UserPath

FILE = "taew2_1.pth"
AT_ONCE = 4  # latent frames; bounds the working memory of a long block


class SoftClamp(nn.Module):
    """Latents squeezed into -3..3."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class Memory(nn.Module):
    """Three convolutions of a frame and the one before it, around a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        """``x`` ``[B, T, C, H, W]`` after the frame ``past`` ``[B, 1, C, H, W]``."""
        pairs = torch.cat([x, torch.cat([past, x[:, :-1]], dim=1)], dim=2)
        changed: Tensor = self.conv(pairs.flatten(0, 1)).unflatten(0, x.shape[:2])
        return torch.relu(changed + x)


class Grow(nn.Module):
    """Each frame to ``times`` frames in a row."""

    def __init__(self, width: int, times: int) -> None:
        super().__init__()
        self.times = times
        self.conv = nn.Conv2d(width, times * width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N * times, C, H, W]``."""
        return self.conv(x).unflatten(1, (self.times, -1)).flatten(0, 1)


def layers(z_dim: int, channels: Sequence[int]) -> nn.Sequential:
    """The decoder; places in the sequence are the numbers in the names of the published weights."""
    stack: list[nn.Module] = [SoftClamp(), nn.Conv2d(z_dim, channels[0], 3, padding=1), nn.ReLU()]
    for width, narrower, times in zip(channels, channels[1:], (1, 2, 2), strict=False):
        stack += [Memory(width) for _ in range(3)]
        stack += [nn.Upsample(scale_factor=2), Grow(width, times), nn.Conv2d(width, narrower, 3, padding=1, bias=False)]
    return nn.Sequential(*stack, nn.ReLU(), nn.Conv2d(channels[-1], 3, 3, padding=1))


class TinyWanDecoder(PlacedCodec):
    """A small, fast decoder of Wan 2.1's latents (TAEHV): n latents to 4n - 3 pixel frames; it cannot encode.

    Args:
        weights: ``taew2_1.pth``, the same as a safetensors file, or the folder it is in; ``random`` for
            random weights. Unset: random weights, which ``predict`` and ``test`` refuse.
        z_dim: latent channels.
        channels: width of the three stages, and of the last convolution.
        device: ``auto`` to go where the model goes, or a device such as ``cuda:1`` to stay on.
        dtype: ``auto`` is bf16 on a CUDA device that has it, else fp32.
        own_stream: decode a block while the next one is generated, in a thread and on a CUDA stream of its own.
    """

    def __init__(
        self,
        weights: UserPath | None = None,
        z_dim: Channels = 16,
        channels: Sequence[Channels] = (256, 128, 64, 64),
        device: str = "auto",
        dtype: DType = "auto",
        own_stream: bool = False,
    ) -> None:
        super().__init__(device, dtype, own_stream)
        if len(channels) != 4:
            raise UserError(
                f"TinyWanDecoder: channels are {list(channels)}, expected four widths; the published are 256, "
                "128, 64, 64."
            )
        self.weights, self.z_dim = weights, z_dim
        self.decoder = layers(z_dim, channels)
        if (file := named(weights)) is not None:
            self._load(file)
        self.place()
        self.eval()

    @property
    def latent_channels(self) -> int:
        return self.z_dim

    def encode(self, video: Tensor) -> Tensor:
        """Not offered; raises ``UserError``."""
        raise UserError(
            "TinyWanDecoder only decodes, and was given an image or a video to encode; take WanVAE as the codec."
        )

    def stream(self) -> DecodeStream:
        return TinyStream(self)

    def pixel_frames(self, latent_frames: int) -> int:
        return 4 * latent_frames - 3 if latent_frames else 0

    def pixel_size(self, width: int, height: int) -> tuple[int, int]:
        return 8 * width, 8 * height

    def _load(self, weights: str) -> None:
        path = Path(weights).expanduser()
        file = path / FILE if path.is_dir() else path
        if not file.is_file():
            raise UserError(
                f"TinyWanDecoder: there is no weights file {file}; expected {FILE}, so download it from "
                "https://github.com/madebyollin/taehv and name its path as weights."
            )
        found = codec_weights.read(file, "TinyWanDecoder")
        ours = {name: value for name, value in found.items() if not name.startswith("encoder.")}
        codec_weights.fill(self, ours, file, "TinyWanDecoder")


class TinyStream(PlacedStream):
    """One video decoded by ``TinyWanDecoder``; ``state`` holds the last input of each memory block."""

    codec: TinyWanDecoder

    def frames(self, latents: Tensor) -> Tensor:
        ahead = 0 if self.state else 3  # the first latent frame is one pixel frame, the last of its four
        some = [self._decoded(part) for part in latents.to(self.codec.precision).split(AT_ONCE, dim=1)]
        return torch.cat(some, dim=1)[:, ahead:].float().clamp(0, 1)

    def _decoded(self, latents: Tensor) -> Tensor:
        """``[B, F, C, h, w]`` to ``[B, 4 * F, 3, H, W]``."""
        batch, pasts, seen = len(latents), iter(self.state), []
        x = latents.flatten(0, 1)
        for layer in self.codec.decoder:
            if isinstance(layer, Memory):
                frames = x.unflatten(0, (batch, -1))
                past = next(pasts) if self.state else torch.zeros_like(frames[:, :1])
                seen.append(frames[:, -1:].clone())  # not a view, which would keep the whole block
                x = layer(frames, past).flatten(0, 1)
            else:
                x = layer(x)
        self.state = seen
        return x.unflatten(0, (batch, -1))
