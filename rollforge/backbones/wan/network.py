"""The Wan 2.1 diffusion transformer, at any size, in the original state-dict naming.

Written for block-causal use: a timestep for each frame, and self-attention handed to a memory. Facts: Wan 2.1
technical report (arXiv 2503.20314), section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rollforge.backbones.base import Backbone, Condition
from rollforge.backbones.wan.attention import Attention
from rollforge.backbones.wan.checkpoint import open_checkpoint
from rollforge.backbones.wan.generator import DType, Generator, LoRA, LoRAMode
from rollforge.backbones.wan.layers import PatchEmbedding, TanhGELU
from rollforge.backbones.wan.sizes import EvenWidth, Frames, Grid, Layers, Rate, Sizes, Width, shown
from rollforge.backbones.weights import named
from rollforge.devices import sent
from rollforge.memory.attention import attention
from rollforge.memory.base import LevelFeatures, Memory, TextKeys
from rollforge.positions import Rope
from rollforge.ranges import Count, NonNegative, Positive, UserPath
from rollforge.spec import ModelSpec

HEAD = -1
"""The layer that ``level_features`` has those of the head under."""


class Text:
    """Text features, made when they are first asked for: a memory may hold their keys and values already."""

    def __init__(self, make: Callable[[], Tensor]) -> None:
        self.make = make
        self.features: Tensor | None = None

    def __call__(self) -> Tensor:
        if self.features is None:
            self.features = self.make()
        return self.features


class Block(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward; modulated by the timestep of each frame."""

    def __init__(self, layer: int, width: int, heads: int, ffn: int, eps: float) -> None:
        super().__init__()
        self.layer, self.last = layer, False
        self.norm1 = nn.LayerNorm(width, eps, elementwise_affine=False)
        self.self_attn = Attention(width, heads, eps)
        self.norm3 = nn.LayerNorm(width, eps)
        self.cross_attn = Attention(width, heads, eps)
        self.norm2 = nn.LayerNorm(width, eps, elementwise_affine=False)
        self.ffn = nn.Sequential(nn.Linear(width, ffn), TanhGELU(), nn.Linear(ffn, width))
        self.modulation = nn.Parameter(torch.randn(1, 6, width) / width**0.5)

    def forward(
        self, x: Tensor, time: Tensor | None, text: Callable[[], Tensor], text_id: str, memory: Memory
    ) -> Tensor:
        """``x`` ``[B, F * tokens, width]``, ``time`` ``[B, F, 6, width]`` where the memory has no features of the
        level; ``text`` makes ``[B, L, width]``."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulated(time, x.dtype, memory)

        h = _modulate(self.norm1, x, scale1, shift1)
        q, k, v = self.self_attn.query_key_value(h)
        if self.last and memory.now.unread:
            memory.write(self.layer, k, v)
            return x
        if self.last and (left_out := memory.now.unread_frames):
            q, x = (_without(each, left_out, scale1) for each in (q, x))
            gate1, shift2, scale2, gate2 = (each[:, left_out:] for each in (gate1, shift2, scale2, gate2))
        attended = memory.attend(self.layer, q, k, v)
        x = _add_gated(x, self.self_attn.o(attended.flatten(2)), gate1)

        k, v = memory.text(self.layer) or memory.cross(self.layer, text_id, lambda: self.cross_attn.key_value(text()))
        x = x + self.cross_attn.o(attention(self.cross_attn.query(self.norm3(x)), k, v).flatten(2))

        h = self.ffn(_modulate(self.norm2, x, scale2, shift2))
        return _add_gated(x, h, gate2)

    def modulated(self, time: Tensor | None, dtype: torch.dtype, memory: Memory | None = None) -> tuple[Tensor, ...]:
        """Shift, scale and gate around attention, and those around the feed-forward layers, ``[B, F, 1, width]``."""
        if memory is not None and (made := memory.level(self.layer)) is not None:
            return made
        assert time is not None
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation + time).to(dtype)[:, :, :, None].unbind(2)
        return shift1, 1 + scale1, gate1, shift2, 1 + scale2, gate2


class Head(nn.Module):
    """Tokens to patches of latents."""

    def __init__(self, width: int, out: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps, elementwise_affine=False)
        self.head = nn.Linear(width, out)
        self.modulation = nn.Parameter(torch.randn(1, 2, width) / width**0.5)

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """``x`` ``[B, F * tokens, width]``; shift and scale as ``modulated`` returns them."""
        return self.head(_modulate(self.norm, x, scale, shift))

    def modulated(self, time: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Shift and scale ``[B, F, 1, width]`` for ``time`` ``[B, F, width]``."""
        shift, scale = (self.modulation + time[:, :, None]).to(dtype)[:, :, :, None].unbind(2)
        return shift, 1 + scale


class Wan(Backbone):
    """The Wan 2.1 text-to-video transformer (block-causal: a timestep for each frame).

    A size that is not given is read off the weights and the ``config.json`` next to them; without weights it is that of
    the 1.3B model.

    Args:
        channels: latent channels (16).
        height: latent rows.
        width: latent columns.
        dim: width of the network (1536).
        layers: transformer blocks (30).
        heads: attention heads; weights do not show them, so unless given or in the config each is 128 wide, as in every
            Wan.
        ffn_dim: width of the feed-forward layers (8960).
        freq_dim: channels of the sinusoidal timestep embedding (256).
        text_dim: channels of the text features (4096).
        text_len: text positions (512); shorter texts are padded with zeros.
        eps: of every norm (1e-6).
        block: latent frames of a block.
        window: latent frames attended to in training, the current block included.
        horizon: latent frames that the model was trained to generate.
        fps: latent frames per second.
        weights: a .safetensors or .pt file, a folder of either published layout, a ``last.ckpt`` of fit, or a hub name
            such as ``gdhe17/Self-Forcing:checkpoints/self_forcing_dmd.pt``; ``random`` for random weights.
            Unset: random weights that ``fit`` trains; ``predict`` and ``test`` refuse them.
        ema: of a file with both, whether to take the averaged weights or the trained ones; unset takes the averaged
            ones where there are any.
        lora: a LoRA for these weights: a file, a folder of PEFT or diffusers, or a hub name; a list of them, or a
            mapping from each to its strength (1 unless given).
        lora_alpha: its alpha, in place of the one that the file, its header or its config says; else its rank.
        lora_mode: ``merge`` adds it to the weights. ``live`` keeps its pairs of matrices next to the weights as modules
            of their own; what else is in it is merged.
        dtype: bf16, fp16 or fp32; ``auto`` is bf16 where there is a CUDA device that has it, else fp32. Unset
            weights start in fp32.
    """

    positions = Rope()
    weights: str | None
    """The argument ``weights``."""

    def __init__(
        self,
        channels: Width | None = None,
        height: Grid = 60,
        width: Grid = 104,
        dim: Width | None = None,
        layers: Layers | None = None,
        heads: Count | None = None,
        ffn_dim: Width | None = None,
        freq_dim: EvenWidth | None = None,
        text_dim: Width | None = None,
        text_len: Width | None = None,
        eps: NonNegative | None = None,
        block: Frames = 3,
        window: Frames = 21,
        horizon: Frames = 21,
        fps: Rate = 4.0,
        weights: UserPath | None = None,
        ema: bool | None = None,
        lora: LoRA | None = None,
        lora_alpha: Positive | None = None,
        lora_mode: LoRAMode = "merge",
        dtype: DType = "auto",
    ) -> None:
        super().__init__()
        generator = Generator.open(type(self).__name__, weights, ema, lora, lora_alpha, lora_mode)
        given = {"ffn_dim": ffn_dim, "freq_dim": freq_dim, "text_dim": text_dim}
        size = generator.sizes(channels=channels, dim=dim, layers=layers, heads=heads, **given)
        shape, attention = (size.channels, height, width, (2, 2)), (size.layers, size.heads, size.dim // size.heads)
        self.spec = ModelSpec(*shape, *attention, block, window, horizon, fps)
        self.weights, self.freq_dim, self.text_dim = weights, size.freq_dim, size.text_dim
        self.text_len = generator.config.get("text_len", 512) if text_len is None else text_len
        with torch.device("meta") if generator.found else nullcontext():
            self._build(size, generator.config.get("eps", 1e-6) if eps is None else eps)
        generator.fill(self, dtype)
        for layer in self._layers():
            layer.self_attn.pack()

    @classmethod
    def sizes_in_files(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if (weights := named(arguments.get("weights"))) is None:
            return {}
        return shown(open_checkpoint(weights, cls.__name__, arguments.get("ema")).tensors)

    def _build(self, size: Sizes, eps: float) -> None:
        dim, patch = size.dim, (1, *self.spec.patch)
        self.patch_embedding = PatchEmbedding(size.channels, dim, kernel_size=patch, stride=patch)
        self.text_embedding = _mlp(size.text_dim, dim, nn.GELU(approximate="tanh"))
        self.time_embedding = _mlp(size.freq_dim, dim, nn.SiLU())
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        blocks = [Block(n, dim, size.heads, size.ffn_dim, eps) for n in range(size.layers)]
        blocks[-1].last = True
        self.blocks = nn.ModuleList(blocks)
        self.head = Head(dim, size.channels * patch[1] * patch[2], eps)

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Memory) -> Tensor:
        frames = latents.shape[1]
        x = memory.share(self.patch_embedding(latents))
        text, last, modulation = self._text(condition), memory.level(HEAD), None
        if last is None:
            time, modulation = self._time(timesteps, x.dtype)
            last = self.head.modulated(time, x.dtype)
        for block in self.blocks:
            x = block(x, modulation, text, condition.id, memory)
        if memory.now.unread:
            return latents
        if left_out := memory.now.unread_frames:
            made = self._unpatch(self.head(x, *(each[:, left_out:] for each in last)), frames - left_out)
            return torch.cat([latents[:, :left_out], made], 1)
        return self._unpatch(memory.gather(self.head(x, *last)), frames)

    def join(self, conditions: Sequence[Condition]) -> Condition | None:
        if not self._is_plain or any(each.extra for each in conditions):
            return None
        embeds = torch.cat([self._padded(each.embeds) for each in conditions])
        return Condition(" + ".join(each.id for each in conditions), embeds)

    def level_features(self, timestep: Tensor) -> LevelFeatures:
        if not self._is_plain:
            return {}
        dtype = self.patch_embedding.weight.dtype
        time, modulation = self._time(timestep[None], dtype)
        features = {block.layer: block.modulated(modulation, dtype) for block in self._layers()}
        features[HEAD] = self.head.modulated(time, dtype)
        if len(timestep) > 1:
            return features
        return {layer: tuple(each.flatten() for each in made) for layer, made in features.items()}

    @property
    def divides_tokens(self) -> bool:  # type: ignore[override] # a subclass may have a forward of its own
        return self._is_plain

    @property
    def _is_plain(self) -> bool:
        """Whether ``forward`` is this one, and its layers the network's own: a subclass may do anything."""
        return type(self).forward is Wan.forward and len(self._layers()) == len(self.blocks)

    def _time(self, timesteps: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Features of noise levels ``[B, F]``: ``[B, F, dim]``, and what modulates the layers, ``[B, F, 6, dim]``."""
        time = self.time_embedding(sinusoid(timesteps, self.freq_dim).to(dtype))
        return time, self.time_projection(time).unflatten(-1, (6, -1))

    def text_keys(self, condition: Condition) -> TextKeys:
        text = self._text(condition)
        return {block.layer: block.cross_attn.key_value(text()) for block in self._layers()}

    def layer_modules(self) -> list[nn.Module]:
        return [*self.blocks]

    def _layers(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def _text(self, condition: Condition) -> Text:
        """The features of a text, ``[B, text_len, dim]``."""
        dtype = self.patch_embedding.weight.dtype
        return Text(lambda: self.text_embedding(self._padded(condition.embeds.to(dtype))))

    def _padded(self, embeds: Tensor) -> Tensor:
        return functional.pad(embeds, (0, 0, 0, self.text_len - embeds.shape[1]))

    def _unpatch(self, x: Tensor, frames: int) -> Tensor:
        """``[B, F * tokens, patch * channels]`` to ``[B, F, C, H, W]``."""
        (rows, columns), (high, wide) = self.spec.grid, self.spec.patch
        x = x.unflatten(1, (frames, rows, columns)).unflatten(-1, (high, wide, -1))  # [B, F, rows, columns, h, w, C]
        return x.permute(0, 1, 6, 2, 4, 3, 5).reshape(-1, frames, *self.spec.latent_shape)


def sinusoid(timesteps: Tensor, channels: int) -> Tensor:
    """``[...]`` timesteps (0 to 1000) to ``[..., channels]`` cosines then sines, float32, within 2e-7 of float64.

    Not every device has float64, and a float32 angle of up to 1000 radians is off by 6e-5. So each angle is a sum: the
    whole part of the timestep times the frequency's first 13 binary places, which float32 holds exactly, and a small
    rest.
    """
    frequency = 10000.0 ** -(torch.arange(channels // 2, dtype=torch.float64) / (channels // 2))  # on the CPU
    coarse = (frequency * 2**13).round() / 2**13
    coarse, fine, frequency = sent(torch.stack([coarse, frequency - coarse, frequency]).float(), timesteps.device)
    whole = timesteps.floor()[..., None]
    large, small = whole * coarse, whole * fine + (timesteps[..., None] - whole) * frequency
    cos = large.cos() * small.cos() - large.sin() * small.sin()
    return torch.cat([cos, large.sin() * small.cos() + large.cos() * small.sin()], dim=-1)


def _mlp(inner: int, outer: int, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inner, outer), activation, nn.Linear(outer, outer))


def _modulate(norm: nn.LayerNorm, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The norm of tokens ``[B, F * tokens, width]``, times ``scale`` and plus ``shift``: ``[width]``, or of each frame
    ``[B, F, 1, width]``, where B may be 1."""
    if scale.dim() == 1:
        return functional.layer_norm(x, scale.shape, scale, shift, norm.eps)
    return torch.addcmul(shift, norm(x).unflatten(1, (scale.shape[1], -1)), scale).flatten(1, 2)


def _without(x: Tensor, frames: int, levels: Tensor) -> Tensor:
    """Tokens ``[B, F * tokens, ...]`` without those of the first ``frames``; ``levels`` is ``[B, F, 1, width]``."""
    return x[:, x.shape[1] // levels.shape[1] * frames :]


def _add_gated(x: Tensor, h: Tensor, gate: Tensor) -> Tensor:
    """``x + h * gate`` of tokens ``[B, F * tokens, width]``; ``gate`` as in ``_modulate``."""
    if gate.dim() == 1:
        return torch.addcmul(x, h, gate)
    frames = gate.shape[1]
    return torch.addcmul(x.unflatten(1, (frames, -1)), h.unflatten(1, (frames, -1)), gate).flatten(1, 2)
