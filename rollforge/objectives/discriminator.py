"""A bidirectional network as a discriminator: registers read its hidden tokens, one logit comes out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rollforge.backbones.base import Backbone, Condition
from rollforge.backbones.wan.attention import Attention
from rollforge.backbones.wan.layers import RMSNorm
from rollforge.errors import UserError
from rollforge.memory import FullMemory
from rollforge.memory.attention import attention
from rollforge.objectives.parallel import prediction

EPS = 1e-6


class Reader(nn.Module):
    """A register token reads all hidden tokens of a video: cross-attention without rotation, then a feed-forward."""

    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.norm3, self.norm2 = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS, elementwise_affine=False)
        self.cross_attn = Attention(width, heads, EPS)
        self.ffn = nn.Sequential(nn.Linear(width, ffn), nn.GELU(approximate="tanh"), nn.Linear(ffn, width))

    def forward(self, token: Tensor, hidden: Tensor) -> Tensor:
        """``token`` ``[B, 1, width]``, ``hidden`` ``[B, L, width]``."""
        k, v = self.cross_attn.key_value(self.norm3(hidden))
        token = token + self.cross_attn.o(attention(self.cross_attn.query(token), k, v).flatten(2))
        read: Tensor = token + self.ffn(self.norm2(token))
        return read


class Discriminator(nn.Module):
    """One logit for each noisy video, ``[B, 1]``.

    Args:
        network: a bidirectional backbone, whose layers are read.
        taps: after which layers, as shares of the depth, counted from 0: 13/30 of 30 layers is layer 13.
        ffn: width of the feed-forward layers of the readers. Default: four times the width of the network.
    """

    def __init__(self, network: Backbone, taps: Sequence[float], ffn: int | None = None) -> None:
        super().__init__()
        spec = network.spec
        width, self.network = spec.heads * spec.head_dim, network
        self.taps = [min(round(share * spec.layers), spec.layers - 1) for share in taps]
        if len(set(self.taps)) < len(self.taps) or len(network.layer_modules()) != spec.layers:
            raise UserError(
                f"GAN.taps {[round(share, 3) for share in taps]} name the layers {self.taps} of {spec.layers} in the "
                f"critic {type(network).__name__}; give shares of the depth that name different layers."
            )
        self.registers = nn.Parameter(torch.randn(len(self.taps), width) * width**-0.5)
        self.norm = RMSNorm(width, EPS)
        self.readers = nn.ModuleList(Reader(width, spec.heads, ffn or 4 * width) for _ in self.taps)
        total = width * len(self.taps)
        self.head = nn.Sequential(nn.LayerNorm(total), nn.Linear(total, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """Noisy videos ``[B, F, C, h, w]`` at timesteps ``[B, F]``."""
        with self._listening() as hidden:
            memory = FullMemory(self.network.spec, range(noisy.shape[1]), self.network.positions)
            prediction(self.network, noisy, timesteps, condition, memory)
        tokens = self.norm(self.registers).expand(len(noisy), -1, -1).split(1, dim=1)
        read = [reader(token, hidden[tap]) for reader, token, tap in zip(self.readers, tokens, self.taps, strict=True)]
        logit: Tensor = self.head(torch.cat(read, dim=-1).flatten(1))
        return logit

    @contextmanager
    def _listening(self) -> Iterator[dict[int, Tensor]]:
        """The hidden tokens of each tapped layer, filled while the network runs."""
        hidden: dict[int, Tensor] = {}
        layers = self.network.layer_modules()
        hooks = [
            layers[tap].register_forward_hook(lambda _, __, made, tap=tap: hidden.__setitem__(tap, made))
            for tap in self.taps
        ]
        try:
            yield hidden
        finally:
            for hook in hooks:
                hook.remove()
