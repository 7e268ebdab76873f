"""The SkyReels-V2 diffusion-forcing transformer of diffusers as a backbone.

diffusers builds the network and holds its weights. Its own ``forward`` runs a whole video under a block-causal mask;
here a pass runs some frames, and the memory supplies keys and values of earlier ones. Paper: arXiv 2504.13074.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from rollforge.backbones.base import Backbone, Condition
from rollforge.backbones.wan.generator import DTYPES, DType
from rollforge.backbones.wan.sizes import EvenWidth, Frames, Grid, Layers, Width
from rollforge.backbones.weights import assign_weights, named
from rollforge.devices import default_device, working_dtype
from rollforge.errors import UserError
from rollforge.memory.base import Memory
from rollforge.positions import Rope
from rollforge.ranges import Count, UserPath
from rollforge.spec import ModelSpec
from rollforge_skyreels.folder import PUBLISHED, WHO, open_transformer
from rollforge_skyreels.processors import CrossAttention, SelfAttention, Text

RATES = (16, 24)  # frames per second, by the rows of the network's fps embedding
STRIDE = 4  # pixel frames of a latent frame
NAMES = {  # of the arguments, in diffusers' configs
    "channels": "in_channels", "heads": "num_attention_heads", "head_dim": "attention_head_dim", "layers": "num_layers",
    "ffn_dim": "ffn_dim", "freq_dim": "freq_dim", "text_dim": "text_dim", "fps_embedding": "inject_sample_info",
}  # fmt: skip


class SkyReels(Backbone):
    """The SkyReels-V2 diffusion-forcing transformer, text to video, from a folder in diffusers' layout.

    A size that is not given is read from the folder's ``config.json``; without one it is that of the 1.3B model.

    Args:
        weights: a folder in diffusers' layout (``transformer/config.json`` and safetensors, single or sharded), its
            ``transformer`` folder, a weights file of ``rollforge fit``, or a hub name such as
            ``Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers``; ``random`` for random weights on purpose; unset for random
            ones, to be trained.
        height: latent rows (540P: 68, 720P: 90).
        width: latent columns (540P: 120, 720P: 160).
        block: latent frames generated together; the authors recommend 5.
        window: latent frames seen in training, the current block included (540P: 25).
        horizon: latent frames of a training clip.
        frame_rate: pixel frames per second, 24 or 16. A network with an fps embedding is conditioned on it.
        channels: latent channels (16).
        heads: attention heads (12).
        head_dim: channels of each head (128).
        layers: transformer blocks (30).
        ffn_dim: width of the feed-forward layers (8960).
        freq_dim: channels of the sinusoidal timestep embedding (256).
        text_dim: channels of the text features (4096).
        fps_embedding: whether the network has an fps embedding (the 1.3B model has, the 14B models have not).
        dtype: bf16, fp16 or fp32; ``auto`` is bf16 where there is a CUDA device that has it, else fp32. Unset
            weights start in fp32.

    Raises:
        UserError: for a folder of another model, missing files, and weights that do not fit.
    """

    positions = Rope()

    def __init__(
        self,
        weights: UserPath | None = None,
        height: Grid = 68,
        width: Grid = 120,
        block: Frames = 5,
        window: Frames = 25,
        horizon: Frames = 25,
        frame_rate: Literal[16, 24] = 24,
        channels: Width | None = None,
        heads: Count | None = None,
        head_dim: EvenWidth | None = None,
        layers: Layers | None = None,
        ffn_dim: Width | None = None,
        freq_dim: EvenWidth | None = None,
        text_dim: Width | None = None,
        fps_embedding: bool | None = None,
        dtype: DType = "auto",
    ) -> None:
        super().__init__()
        if frame_rate not in RATES:
            raise UserError(f"{WHO}: frame_rate is {frame_rate}, expected 16 or 24.")
        given = {
            "channels": channels, "heads": heads, "head_dim": head_dim, "layers": layers, "ffn_dim": ffn_dim,
            "freq_dim": freq_dim, "text_dim": text_dim, "fps_embedding": fps_embedding,
        }  # fmt: skip
        source = None if (place := named(weights)) is None else open_transformer(place)
        sizes = PUBLISHED | (source.config if source else {})
        sizes |= {NAMES[name]: size for name, size in given.items() if size is not None}
        attention = (sizes["num_layers"], sizes["num_attention_heads"], sizes["attention_head_dim"])
        shape = (sizes["in_channels"], height, width, (2, 2))
        self.spec = ModelSpec(*shape, *attention, block, window, horizon, frame_rate / STRIDE)
        self.weights, self.rate = weights, RATES.index(frame_rate)
        with torch.device("meta") if source else nullcontext():
            self.transformer = _build(sizes)
        automatic = working_dtype(default_device())
        if source:
            assign_weights(self.transformer, source.tensors, str(place), DTYPES.get(dtype, automatic), WHO)
        elif weights or dtype != "auto":
            self.to(DTYPES.get(dtype, automatic))

    @classmethod
    def sizes_in_files(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if (place := named(arguments.get("weights"))) is None:
            return {}
        config = open_transformer(place).config
        return {name: config[key] for name, key in NAMES.items() if key in config}

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Memory) -> Tensor:
        net, frames = self.transformer, latents.shape[1]
        if condition.embeds.shape[-1] != net.config.text_dim:
            raise UserError(
                f"{WHO}: the text features are {condition.embeds.shape[-1]} wide and the network takes "
                f"{net.config.text_dim}; name UMT5 with the text encoder of the same folder as model.conditioner."
            )
        x = net.patch_embedding(latents.transpose(1, 2)).flatten(2).transpose(1, 2)  # [B, F * tokens, width]
        time, modulation = self._time(timesteps, x.dtype)  # [B, F, width], [B, F, 6, width]
        embeds = condition.embeds.to(x.dtype)
        text = Text(condition.id, lambda: net.condition_embedder.text_embedder(embeds), memory)
        modulation = self._per_token(modulation).transpose(1, 2)  # [B, 6, F * tokens, width]
        for block in net.blocks:
            x = block(x, text, modulation, memory, None)
        shift, scale = (net.scale_shift_table[:, :, None] + self._per_token(time)[:, None]).unbind(1)
        x = (net.norm_out(x.float()) * (1 + scale) + shift).type_as(x)
        return self._unpatch(net.proj_out(x), frames)

    def _time(self, timesteps: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Timesteps ``[B, F]`` to their embeddings ``[B, F, width]`` and modulations ``[B, F, 6, width]``."""
        net, embedder = self.transformer, self.transformer.condition_embedder
        time = embedder.time_embedder(embedder.timesteps_proj(timesteps).to(dtype))
        modulation = embedder.time_proj(embedder.act_fn(time))
        if net.config.inject_sample_info:
            modulation = modulation + net.fps_projection(net.fps_embedding.weight[self.rate])
        return time, modulation.unflatten(-1, (6, -1))

    def _per_token(self, x: Tensor) -> Tensor:
        """``[B, F, ...]`` to ``[B, F * tokens, ...]``, the same for every token of a frame."""
        return x.repeat_interleave(self.spec.tokens, dim=1)

    def _unpatch(self, x: Tensor, frames: int) -> Tensor:
        """``[B, F * tokens, patch * channels]`` to ``[B, F, C, H, W]``."""
        (rows, columns), (high, wide) = self.spec.grid, self.spec.patch
        x = x.unflatten(1, (frames, rows, columns)).unflatten(-1, (high, wide, -1))  # [B, F, rows, columns, h, w, C]
        return x.permute(0, 1, 6, 2, 4, 3, 5).reshape(-1, frames, *self.spec.latent_shape)


def _build(sizes: Mapping[str, Any]) -> Any:
    """diffusers' network without rotary embedding, which the memory has, and with processors that ask the memory."""
    try:
        from diffusers import SkyReelsV2Transformer3DModel
    except ImportError as error:
        raise UserError(f"{WHO} needs the package diffusers, 0.36 or newer; install it with pip.") from error
    net: Any = SkyReelsV2Transformer3DModel(**sizes, out_channels=sizes["in_channels"])
    del net.rope
    for layer, block in enumerate(net.blocks):
        block.attn1.set_processor(SelfAttention(layer))
        block.attn2.set_processor(CrossAttention(layer))
    return net
