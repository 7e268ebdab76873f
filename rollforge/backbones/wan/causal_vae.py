"""The causal VAE of diffusers as a video codec that is decoded block by block.

The network is diffusers' ``AutoencoderKLWan``. Its own ``decode`` starts from an empty cache with every call; here the
loop over latent frames is outside, and the features that its causal convolutions carry over belong to the stream.
Facts: Wan 2.1 technical report (arXiv 2503.20314), section 4.1; the VAE of Wan 2.2 5B folds ``patch_size`` x
``patch_size`` pixels into channels before it encodes, and unfolds them after it has decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rollforge.backbones.base import DecodeStream
from rollforge.backbones.wan.placement import DType, PlacedCodec, PlacedStream
from rollforge.backbones.wan.tiles import Tiles
from rollforge.errors import UserError


class CausalVAE(PlacedCodec):
    """What all codecs with an ``AutoencoderKLWan`` share. A subclass calls ``assemble`` once it has the network.

    Args:
        tile: work on tiles of that many latent cells (a side); None for none.
        overlap: cells that neighbouring tiles share and are blended over.
        device: see ``PlacedCodec``, as ``dtype`` and ``own_stream``.
    """

    vae: Any
    """The ``AutoencoderKLWan``."""

    def __init__(self, tile: int | None, overlap: int, device: str, dtype: DType, own_stream: bool) -> None:
        super().__init__(device, dtype, own_stream)
        if tile is not None and 2 * overlap > tile:
            raise UserError(
                f"{type(self).__name__}: tiles of {tile} cells cannot overlap by {overlap}; overlap is at most half of "
                "tile."
            )
        self.tile, self.overlap = tile, overlap

    def assemble(self, vae: Any, mean: Sequence[float], std: Sequence[float]) -> None:
        """Takes the network and the statistics of its latents, one value for each channel, and places it."""
        self.vae, self.mean, self.std = vae, list(mean), list(std)
        self.patch = vae.config.patch_size or 1
        self.scale = self.patch * 2 ** (len(vae.config.dim_mult) - 1)
        self.stride = 2 ** sum(vae.config.temperal_downsample)
        self.place()
        self.eval()

    @property
    def latent_channels(self) -> int:
        return len(self.mean)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Pixel frames ``[B, 4n - 3, 3, H, W]`` in 0..1 to normalised latents ``[B, n, C, h, w]``, float32.

        The first pixel frame is a latent frame by itself, so an image is a video of one frame. Latents are the mode of
        the posterior. They are returned on the device of ``video``; with ``tile`` they are computed tile by tile.
        """
        self._check_video(video)
        mean, std = self.statistics()
        pixels = (video.to(self.where, torch.float32) * 2 - 1).to(self.precision).transpose(1, 2)
        tiles = self.tiles(video.shape[-2] // self.scale, video.shape[-1] // self.scale)
        with self.at_work():
            latents = tiles.blend(self._encode(piece) for piece in tiles.cut(pixels, self.scale))
        return ((latents - mean) / std).transpose(1, 2).to(video.device)

    def stream(self) -> DecodeStream:
        return CausalStream(self)

    def pixel_frames(self, latent_frames: int) -> int:
        return self.stride * (latent_frames - 1) + 1 if latent_frames else 0

    def pixel_size(self, width: int, height: int) -> tuple[int, int]:
        return self.scale * width, self.scale * height

    def tiles(self, height: int, width: int) -> Tiles:
        """How a grid of latent cells is cut."""
        return Tiles(height, width, self.tile, self.overlap)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of latents, ``[C, 1, 1, 1]``, float32."""
        mean, std = torch.tensor([self.mean, self.std], device=self.where)[..., None, None, None]
        return mean, std

    def _encode(self, pixels: Tensor) -> Tensor:
        """``[B, 3, T, H, W]`` in -1..1 to the mode of the posterior ``[B, C, F, h, w]``, float32."""
        features = blank(self.vae.encoder)
        folded = fold(pixels, self.patch)
        chunks = [folded[:, :, :1], *folded[:, :, 1:].split(self.stride, dim=2)]
        moments = [self.vae.encoder(chunk, feat_cache=features, feat_idx=[0]) for chunk in chunks if chunk.shape[2]]
        return self.vae.quant_conv(torch.cat(moments, dim=2)).chunk(2, dim=1)[0].float()

    def _check_video(self, video: Tensor) -> None:
        what = type(self).__name__
        if video.ndim != 5 or video.shape[2] != 3 or video.shape[3] % self.scale or video.shape[4] % self.scale:
            raise UserError(
                f"{what}: a video to encode is {list(video.shape)}, expected [batch, frames, 3, height, width] with "
                f"height and width in multiples of {self.scale}; resize or crop it."
            )
        frames, stride = video.shape[1], self.stride
        if not frames or (frames - 1) % stride:
            fits = [str(n) for n in (frames - (frames - 1) % stride, frames + (1 - frames) % stride) if n > 0]
            raise UserError(
                f"{what}: {frames} pixel frames cannot be encoded, expected {stride}n - {stride - 1} of them; take "
                f"{' or '.join(fits)}."
            )


class CausalStream(PlacedStream):
    """One video decoded by a ``CausalVAE``; ``state`` holds the feature map of each tile.

    With tiles every tile decodes with a past of its own and is blended with its neighbours, so that tiled decoding
    streams as well. All feature maps together grow with the overlap; what is saved is the working memory.
    """

    codec: CausalVAE

    def __init__(self, codec: CausalVAE) -> None:
        super().__init__(codec)
        self.mean, self.std = codec.statistics()  # once, since sending numbers to a GPU waits for it

    def frames(self, latents: Tensor) -> Tensor:
        raw = (latents.transpose(1, 2) * self.std + self.mean).to(self.codec.precision)  # [B, C, F, h, w]
        tiles = self.codec.tiles(*raw.shape[-2:])
        if not self.state:
            self.state = [blank(self.codec.vae.decoder) for _ in tiles.all]
        video = tiles.blend(self._decoded(tiles.cut(raw)), self.codec.scale)
        return (video / 2 + 0.5).clamp(0, 1).transpose(1, 2)

    def _decoded(self, pieces: Iterable[Tensor]) -> Iterable[Tensor]:
        """Latents ``[B, C, F, h, w]`` of each tile to its pixels ``[B, 3, T, H, W]`` in -1..1, float32."""
        network = self.codec.vae
        for piece, features in zip(pieces, self.state, strict=True):
            decoded = [
                network.decoder(frame, feat_cache=features, feat_idx=[0], first_chunk=features[0] is None).float()
                for frame in network.post_quant_conv(piece).split(1, dim=2)
            ]
            yield unfold(torch.cat(decoded, dim=2), self.codec.patch)


def blank(network: nn.Module) -> list[Any]:
    """An empty feature map: a place for what each causal convolution carries over."""
    return [None for module in network.modules() if isinstance(module, nn.Conv3d)]


def fold(video: Tensor, patch: int) -> Tensor:
    """``[B, C, F, H, W]`` to ``[B, C * patch * patch, F, H / patch, W / patch]``, as the VAE of Wan 2.2 orders them."""
    cells = video.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))  # [B, C, F, h, rows, w, columns]
    return cells.permute(0, 1, 6, 4, 2, 3, 5).flatten(1, 3)


def unfold(features: Tensor, patch: int) -> Tensor:
    """The inverse of ``fold``."""
    cells = features.unflatten(1, (-1, patch, patch))  # [B, C, columns, rows, F, h, w]
    return cells.permute(0, 1, 4, 5, 3, 6, 2).flatten(-2).flatten(-3, -2)
