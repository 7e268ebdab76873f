"""Wan 2.1's video codec: finding its weights, and its sizes and statistics where no config says them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch

from rollforge.backbones.wan import codec_weights
from rollforge.backbones.wan.causal_vae import CausalVAE
from rollforge.backbones.wan.placement import Channels, DType
from rollforge.backbones.weights import named
from rollforge.errors import UserError
from rollforge.ranges import Count, CountFromZero, Finite, Positive, Range, UserPath

Few = Annotated[int, Range(1, 64)]


class WanVAE(CausalVAE):
    """Wan 2.1's causal VAE: n latents are 4n - 3 pixel frames, a latent cell is 8x8 pixels.

    Needs the package diffusers. Sizes and statistics come from ``config.json`` where the weights have one.

    Args:
        weights: ``Wan2.1_VAE.pth``, a safetensors file, a folder that holds either or diffusers' ``vae/``, or a hub id;
            ``random`` for random weights. Unset: random weights, which ``predict`` and ``test`` refuse.
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
        own_stream: decode a block while the next one is generated, in a thread and on a CUDA stream of its own.
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
        super().__init__(tile, overlap, device, dtype, own_stream)
        self.weights = weights
        sizes = {
            "base_dim": base_dim, "z_dim": z_dim, "dim_mult": list(dim_mult), "num_res_blocks": num_res_blocks,
            "temperal_downsample": list(temporal_downsample), "latents_mean": latents_mean, "latents_std": latents_std,
        }  # fmt: skip
        file = named(weights)
        vae = _build(sizes) if file is None else _load(file, sizes)
        self.assemble(vae, *_statistics(vae.config, latents_mean, latents_std))


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
    """The network with weights from ``weights``; a config.json next to them overrules ``sizes``."""
    file = codec_weights.locate(weights)
    config = codec_weights.config_of(file)
    if config.get("patch_size") or config.get("is_residual"):
        raise UserError(
            f"WanVAE: {file} is the VAE of Wan 2.2, expected that of Wan 2.1; take the one from a 2.1 release, or make "
            "Wan22VAE of the package rollforge-wan22 the codec."
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
