"""Wan 2.2's video codec: the VAE of a folder in diffusers' layout, with the sizes and statistics of its config."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import torch

from rollforge.backbones.hub import first_line
from rollforge.backbones.tensors import INDEX, Tensors, open_file
from rollforge.backbones.wan.causal_vae import CausalVAE
from rollforge.backbones.wan.codec_weights import missing
from rollforge.backbones.wan.placement import Channels, DType
from rollforge.backbones.weights import assign_weights, named, open_weights
from rollforge.errors import UserError
from rollforge.ranges import Count, CountFromZero, Finite, Positive, Range, UserPath, fitted
from rollforge_wan22.backbone import FOLDER
from rollforge_wan22.layout import locate, read_vae_config

MAIN = "diffusion_pytorch_model.safetensors"
Few = Annotated[int, Range(1, 64)]
RANGES = {
    "base_dim": Channels, "decoder_base_dim": Channels | None, "z_dim": Channels, "dim_mult": Sequence[Few],
    "num_res_blocks": Few, "in_channels": Channels, "out_channels": Channels, "patch_size": Few | None,
    "latents_mean": Sequence[Finite], "latents_std": Sequence[Positive],
}  # fmt: skip


class Wan22VAE(CausalVAE):
    """The causal VAE of a Wan 2.2 folder: that of the 5B (a latent cell is 16x16 pixels) or of the A14B (8x8).

    n latents are 4n - 3 pixel frames. Sizes and the statistics of latents come from ``vae/config.json``.

    Args:
        folder: a folder with ``model_index.json``, or a hub name such as ``Wan-AI/Wan2.2-TI2V-5B-Diffusers``.
        weights: ``folder`` for those in the folder; a ``last.ckpt`` or safetensors file with others of the same sizes;
            ``random`` for random weights. Unset: random weights, to be trained.
        tile: work on tiles of that many latent cells (a side), to need less memory at once; unset for none.
        overlap: cells that neighbouring tiles share and are blended over.
        device: ``auto`` to go where the model goes, or a device such as ``cuda:1`` to stay on.
        dtype: ``auto`` is bf16 on a CUDA device that has it, else fp32.
        own_stream: decode a block while the next one is generated, in a thread and on a CUDA stream of its own.
    """

    def __init__(
        self,
        folder: UserPath,
        weights: UserPath | None = FOLDER,
        tile: Count | None = None,
        overlap: CountFromZero = 8,
        device: str = "auto",
        dtype: DType = "auto",
        own_stream: bool = False,
    ) -> None:
        super().__init__(tile, overlap, device, dtype, own_stream)
        what, self.weights = type(self).__name__, weights
        place = locate(folder, ("vae",), what)
        file, config = place / "vae" / "config.json", read_vae_config(place, what)
        found = None if named(weights) is None else _open(place / "vae", str(weights), what)
        with nullcontext() if found is None else torch.device("meta"):
            vae = _build(config, file, what)
        if found is not None:
            assign_weights(vae, found, place / "vae" if weights == FOLDER else str(weights), torch.float32, what)
        self.assemble(vae, vae.config.latents_mean, vae.config.latents_std)


def _open(folder: Path, weights: str, what: str) -> Tensors:
    """The weights, opened and not read."""
    if weights != FOLDER:
        return open_weights(Path(weights), "codec", what)
    file = next((folder / name for name in (f"{MAIN}{INDEX}", MAIN) if (folder / name).is_file()), None)
    if file is None:
        raise UserError(f"{what}: {folder} holds no {MAIN}; download it there.")
    return open_file(file, what)


def _build(config: dict[str, Any], file: Path, what: str) -> Any:
    """The network of diffusers that a config describes, with random weights."""
    try:
        from diffusers import AutoencoderKLWan
    except ImportError as error:
        raise missing(what, "diffusers") from error
    checked = fitted(f"{what}: {file}", RANGES, config)
    mean, std, channels = (checked.get(key) or [] for key in ("latents_mean", "latents_std", "z_dim"))
    if not len(mean) == len(std) == channels:
        raise UserError(
            f"{what}: {file} has {len(mean)} latents_mean and {len(std)} latents_std for {channels or 'no'} z_dim; "
            "expected one of each for every latent channel, so fetch it again."
        )
    try:
        vae: Any = AutoencoderKLWan.from_config(config)
    except Exception as error:  # whatever diffusers raises for sizes that do not go together
        raise UserError(
            f"{what}: {file} describes no VAE that diffusers can build ({first_line(error)}); fetch it again."
        ) from error
    levels, steps = len(vae.config.dim_mult), len(vae.config.temperal_downsample)
    if steps != levels - 1:
        raise UserError(
            f"{what}: {file} has {steps} values of temperal_downsample for {levels} levels of dim_mult, expected "
            f"{levels - 1}; fetch it again."
        )
    return vae
