"""The Wan 2.1 diffusion transformer, at any size, in the original state-dict naming.

Written for block-causal use: a timestep for each frame, and self-attention handed to a memory. Facts: Wan 2.1
technical report (arXiv 2503.20314), section 4.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rollforge.backbones.base import Backbone, Condition
from rollforge.errors import UserError
from rollforge.memory.attention import attention
from rollforge.memory.base import Memory
from rollforge.spec import ModelSpec


class RMSNorm(nn.Module):
    """Root-mean-square norm over the full width, computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """Layer norm computed in float32."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (p if p is None else p.float() for p in (self.weight, self.bias))
        return functional.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class Attention(nn.Module):
    """Projections and q/k-norm; who attends to what is not decided here."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(width, eps), RMSNorm(width, eps)

    def split(self, x: Tensor) -> Tensor:
        """``[B, L, width]`` to ``[B, L, heads, head_dim]``."""
        return x.unflatten(-1, (self.heads, -1))

    def query(self, x: Tensor) -> Tensor:
        return self.split(self.norm_q(self.q(x)))

    def key_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.split(self.norm_k(self.k(x))), self.split(self.v(x))


class Block(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward; modulated by the timestep of each frame."""

    def __init__(self, layer: int, width: int, heads: int, ffn: int, eps: float) -> None:
        super().__init__()
        self.layer = layer
        self.norm1 = LayerNorm(width, eps, elementwise_affine=False)
        self.self_attn = Attention(width, heads, eps)
        self.norm3 = LayerNorm(width, eps)
        self.cross_attn = Attention(width, heads, eps)
        self.norm2 = LayerNorm(width, eps, elementwise_affine=False)
        self.ffn = nn.Sequential(nn.Linear(width, ffn), nn.GELU(approximate="tanh"), nn.Linear(ffn, width))
        self.modulation = nn.Parameter(torch.randn(1, 6, width) / width**0.5)

    def forward(self, x: Tensor, time: Tensor, text: Tensor, text_id: str, memory: Memory) -> Tensor:
        """``x`` ``[B, F * tokens, width]``, ``time`` ``[B, F, 6, width]``, ``text`` ``[B, L, width]``."""
        frames = time.shape[1]
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation + time).to(x.dtype).unbind(2)

        h = _modulate(self.norm1(x), scale1, shift1, frames)
        attended = memory.attend(self.layer, self.self_attn.query(h), *self.self_attn.key_value(h))
        x = x + _per_frame(self.self_attn.o(attended.flatten(2)), gate1, frames)

        k, v = memory.cross(self.layer, text_id, text, self.cross_attn.key_value)
        x = x + self.cross_attn.o(attention(self.cross_attn.query(self.norm3(x)), k, v).flatten(2))

        h = self.ffn(_modulate(self.norm2(x), scale2, shift2, frames))
        return x + _per_frame(h, gate2, frames)


class Head(nn.Module):
    """Tokens to patches of latents."""

    def __init__(self, width: int, out: int, eps: float) -> None:
        super().__init__()
        self.norm = LayerNorm(width, eps, elementwise_affine=False)
        self.head = nn.Linear(width, out)
        self.modulation = nn.Parameter(torch.randn(1, 2, width) / width**0.5)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """``x`` ``[B, F * tokens, width]``, ``time`` ``[B, F, width]``."""
        shift, scale = (self.modulation + time[:, :, None]).to(x.dtype).unbind(2)
        return self.head(_modulate(self.norm(x), scale, shift, time.shape[1]))


class Wan(Backbone):
    """The Wan 2.1 text-to-video transformer (block-causal: a timestep for each frame).

    Args:
        channels: latent channels.
        height: latent rows.
        width: latent columns.
        dim: width of the network.
        layers: transformer blocks.
        heads: attention heads.
        ffn_dim: width of the feed-forward layers.
        freq_dim: channels of the sinusoidal timestep embedding.
        text_dim: channels of the text features.
        text_len: text positions; shorter texts are padded with zeros.
        eps: of every norm.
        block: latent frames made together.
        window: latent frames seen in training, the current block included.
        horizon: latent frames the model was trained to roll.
        fps: latent frames per second.
    """

    def __init__(
        self,
        channels: int = 16,
        height: int = 60,
        width: int = 104,
        dim: int = 1536,
        layers: int = 30,
        heads: int = 12,
        ffn_dim: int = 8960,
        freq_dim: int = 256,
        text_dim: int = 4096,
        text_len: int = 512,
        eps: float = 1e-6,
        block: int = 3,
        window: int = 21,
        horizon: int = 21,
        fps: float = 4.0,
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise UserError(f"{type(self).__name__}: dim {dim} cannot be shared out to {heads} heads.")
        self.spec = ModelSpec(channels, height, width, (2, 2), layers, heads, dim // heads, block, window, horizon, fps)
        self.freq_dim, self.text_len = freq_dim, text_len
        patch = (1, *self.spec.patch)
        self.patch_embedding = nn.Conv3d(channels, dim, kernel_size=patch, stride=patch)
        self.text_embedding = nn.Sequential(nn.Linear(text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(n, dim, heads, ffn_dim, eps) for n in range(layers))
        self.head = Head(dim, channels * patch[1] * patch[2], eps)

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Memory) -> Tensor:
        frames = latents.shape[1]
        x = self.patch_embedding(latents.transpose(1, 2)).flatten(2).transpose(1, 2)  # [B, F * tokens, dim]
        time = self.time_embedding(sinusoid(timesteps, self.freq_dim).to(x.dtype))  # [B, F, dim]
        modulation = self.time_projection(time).unflatten(-1, (6, -1))
        text = self.text_embedding(self._padded(condition.embeds.to(x.dtype)))
        for block in self.blocks:
            x = block(x, modulation, text, condition.id, memory)
        return self._unpatch(self.head(x, time), frames)

    def _padded(self, embeds: Tensor) -> Tensor:
        return functional.pad(embeds, (0, 0, 0, self.text_len - embeds.shape[1]))

    def _unpatch(self, x: Tensor, frames: int) -> Tensor:
        """``[B, F * tokens, patch * channels]`` to ``[B, F, C, H, W]``."""
        (rows, columns), (high, wide) = self.spec.grid, self.spec.patch
        x = x.unflatten(1, (frames, rows, columns)).unflatten(-1, (high, wide, -1))  # [B, F, rows, columns, h, w, C]
        return x.permute(0, 1, 6, 2, 4, 3, 5).reshape(-1, frames, *self.spec.latent_shape)


def sinusoid(timesteps: Tensor, channels: int) -> Tensor:
    """``[...]`` timesteps to ``[..., channels]`` cosines then sines, computed in float64."""
    half = channels // 2
    frequency = 10000.0 ** -(torch.arange(half, dtype=torch.float64, device=timesteps.device) / half)
    angle = timesteps.double()[..., None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1).float()


def _per_frame(x: Tensor, factor: Tensor, frames: int) -> Tensor:
    """Scales the tokens ``[B, F * tokens, width]`` of each frame by ``[B, F, width]``."""
    return (x.unflatten(1, (frames, -1)) * factor[:, :, None]).flatten(1, 2)


def _modulate(x: Tensor, scale: Tensor, shift: Tensor, frames: int) -> Tensor:
    return (x.unflatten(1, (frames, -1)) * (1 + scale[:, :, None]) + shift[:, :, None]).flatten(1, 2)
