"""Wan 2.1's video codec: the causal VAE of diffusers, decoded block by block.

The network is diffusers' ``AutoencoderKLWan``. Its own ``decode`` forgets the past with every call; here the loop over
latent frames is outside, and the features that its causal convolutions carry over belong to the stream. Facts: Wan 2.1
technical report (arXiv 2503.20314), section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from rollforge.backbones.base import DecodeStream
from rollforge.backbones.wan import codec_weights
from rollforge.backbones.wan.placement import Channels, DType, PlacedCodec, PlacedStream
from rollforge.backbones.wan.tiles import Tiles
from rollforge.backbones.weights import named
from rollforge.errors import UserError
from rollforge.ranges import Count, CountFromZero, Finite, Positive, Range, UserPath

Few = Annotated[int, Range(1, 64)]


class WanVAE(PlacedCodec):
    """Wan 2.1's causal VAE: n latents are 4n - 3 pixel frames, a latent cell is 8x8 pixels.

    Needs the package diffusers. Sizes and statistics come from ``config.json`` where the weights have one.

    Args:
        weights: ``Wan2.1_VAE.pth``, a safetensors file, a folder that holds either or diffusers' ``vae/``, or a hub id;
            ``random`` for random ones on purpose, unset for random ones.
        base_dim: channels at full resolution.
        z_dim: latent channels.
        dim_mult: channels of each level, as multiples of ``base_dim``.
        num_res_blocks: residual blocks of each level.
        temporal_downsample: which of the steps between levels halve time too.
        latents_mean: mean of each latent channel, which encoding takes away; as published for 16 channels, else 0.
        latents_std: standard deviation of each latent channel, by which encoding divides; likewise, else 1.
        tile: work on tiles of that many latent cells (a side), to need less memory at once; unset for none.
        overlap: cells that neighbouring tiles share and are blended over.
        device: ``auto`` to go where the model goes, or a device such as ``cuda:1`` to stay on.
        dtype: ``auto`` is bf16 on a CUDA device that has it, else fp32.
        own_stream: on CUDA, decode on a CUDA stream of its own.
    """

    def __init__(
        self,
        weights: UserPath | None = None,
        base_dim: Channels = 96,
        z_dim: Channels = 16,
        dim_mult: Sequence[Few] = (1, 2, 4, 4),
        num_res_blocks: Few = 2,
        temporal_downsample: Sequence[bool] = (False, True, True),
        latents_mean: Sequence[Finite] | None = None,
        latents_std: Sequence[Positive] | None = None,
        tile: Count | None = None,
        overlap: CountFromZero = 8,
        device: str = "auto",
        dtype: DType = "auto",
        own_stream: bool = False,
    ) -> None:
        super().__init__(device, dtype, own_stream)
        if tile is not None and 2 * overlap > tile:
            raise UserError(
                f"WanVAE: tiles of {tile} cells cannot overlap by {overlap}; overlap is at most half of tile."
            )
        self.weights, self.tile, self.overlap = weights, tile, overlap
        sizes = {
            "base_dim": base_dim, "z_dim": z_dim, "dim_mult": list(dim_mult), "num_res_blocks": num_res_blocks,
            "temperal_downsample": list(temporal_downsample), "latents_mean": latents_mean, "latents_std": latents_std,
        }  # fmt: skip
        file = named(weights)
        self.vae = _build(sizes) if file is None else _load(file, sizes)
        self.scale = 2 ** (len(self.vae.config.dim_mult) - 1)
        self.stride = 2 ** sum(self.vae.config.temperal_downsample)
        self.mean, self.std = _statistics(self.vae.config, latents_mean, latents_std)
        self.place()
        self.eval()

    @property
    def latent_channels(self) -> int:
        return len(self.mean)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Pixel frames ``[B, 4n - 3, 3, H, W]`` in 0..1 to normalised latents ``[B, n, C, h, w]``, float32.

        The first pixel frame is a latent frame by itself, so an image is a video of one frame. Latents are the mode of
        the posterior. They come back on the device of ``video``; with ``tile`` they are made tile by tile.
        """
        self._check_video(video)
        mean, std = self.statistics()
        pixels = (video.to(self.where, torch.float32) * 2 - 1).to(self.precision).transpose(1, 2)
        tiles = self.tiles(video.shape[-2] // self.scale, video.shape[-1] // self.scale)
        with self.at_work():
            latents = tiles.blend(self._encode(piece) for piece in tiles.cut(pixels, self.scale))
        return ((latents - mean) / std).transpose(1, 2).to(video.device)

    def stream(self) -> DecodeStream:
        return WanStream(self)

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
        chunks = [pixels[:, :, :1], *pixels[:, :, 1:].split(self.stride, dim=2)]
        moments = [self.vae.encoder(chunk, feat_cache=features, feat_idx=[0]) for chunk in chunks if chunk.shape[2]]
        return self.vae.quant_conv(torch.cat(moments, dim=2)).chunk(2, dim=1)[0].float()

    def _check_video(self, video: Tensor) -> None:
        if video.ndim != 5 or video.shape[2] != 3 or video.shape[3] % self.scale or video.shape[4] % self.scale:
            raise UserError(
                f"WanVAE: a video to encode is {list(video.shape)}, expected [batch, frames, 3, height, width] with "
                f"height and width in multiples of {self.scale}; resize or crop it."
            )
        frames, stride = video.shape[1], self.stride
        if not frames or (frames - 1) % stride:
            fits = [str(n) for n in (frames - (frames - 1) % stride, frames + (1 - frames) % stride) if n > 0]
            raise UserError(
                f"WanVAE: {frames} pixel frames cannot be encoded, expected {stride}n - {stride - 1} of them; take "
                f"{' or '.join(fits)}."
            )


class WanStream(PlacedStream):
    """One video decoded by ``WanVAE``; ``state`` holds the feature map of each tile.

    With tiles every tile decodes with a past of its own and is blended with its neighbours, so that tiled decoding
    streams as well. All feature maps together grow with the overlap; what is saved is the working memory.
    """

    codec: WanVAE

    def __init__(self, codec: WanVAE) -> None:
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
            yield torch.cat(
                [
                    network.decoder(frame, feat_cache=features, feat_idx=[0], first_chunk=features[0] is None).float()
                    for frame in network.post_quant_conv(piece).split(1, dim=2)
                ],
                dim=2,
            )


def blank(network: nn.Module) -> list[Any]:
    """An empty feature map: a place for what each causal convolution carries over."""
    return [None for module in network.modules() if isinstance(module, nn.Conv3d)]


def _build(sizes: dict[str, Any]) -> Any:
    """The network of diffusers, with random weights."""
    try:
        from diffusers import AutoencoderKLWan
    except ImportError as error:
        raise codec_weights.missing("WanVAE", "diffusers") from error
    levels, steps = len(sizes["dim_mult"]), len(sizes["temperal_downsample"])
    if steps != levels - 1:
        raise UserError(
            f"WanVAE: temporal_downsample has {steps} values, expected {levels - 1}, one for each step between the "
            f"{levels} levels of dim_mult; make them agree."
        )
    return AutoencoderKLWan(**{name: value for name, value in sizes.items() if value is not None})


def _load(weights: str, sizes: dict[str, Any]) -> Any:
    """The network with weights from ``weights``; a config.json beside them overrules ``sizes``."""
    file = codec_weights.locate(weights)
    config = codec_weights.config_of(file)
    if config.get("patch_size") or config.get("is_residual"):
        raise UserError(
            f"WanVAE: {file} is the VAE of Wan 2.2, expected that of Wan 2.1; take the one from a 2.1 release."
        )
    found = codec_weights.read(file, "WanVAE")
    with torch.device("meta"):
        network = _build({**sizes, **{name: config[name] for name in sizes if name in config}})
    codec_weights.fill(network, codec_weights.original_to_diffusers(found), file, "WanVAE")
    return network


def _statistics(
    config: Any, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation for every latent channel."""
    published = len(config.latents_mean) == config.z_dim == len(config.latents_std)
    if published:
        return list(config.latents_mean), list(config.latents_std)
    if mean is None and std is None:
        return [0.0] * config.z_dim, [1.0] * config.z_dim
    raise UserError(
        f"WanVAE: latents_mean and latents_std name {len(config.latents_mean)} and {len(config.latents_std)} channels, "
        f"expected {config.z_dim}, as z_dim says; give both, one value for each channel."
    )
