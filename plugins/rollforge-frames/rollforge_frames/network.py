"""The network: a transformer in which every frame is one token, so that attention is over time alone."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from rollforge.backbones.base import Backbone, Condition
from rollforge.backbones.weights import load_weights, named
from rollforge.errors import UserError
from rollforge.memory.base import Memory
from rollforge.positions import FixedPositions
from rollforge.ranges import Count, Range, UserPath
from rollforge.samplers.base import TIMESTEPS
from rollforge.spec import ModelSpec
from rollforge_frames.conditioner import CLASSES

Size = Annotated[int, Range(1, 512)]  # pixels of a latent; the weights grow with its square
Width = Annotated[int, Range(2, 16_384)]
Layers = Annotated[int, Range(1, 1_000)]
Frames = Annotated[int, Range(1, 100_000)]

WAVES = 16  # sines and as many cosines of a noise level


class FrameTransformer(Backbone):
    """Predicts the clean frame from a noisy one, the shape in it, and the frames before it.

    Args:
        size: height and width of a latent.
        dim: width of the network.
        layers: transformer layers.
        heads: attention heads.
        window: frames seen in training, the current one included. Time positions repeat after as many frames, so that
            a rollout never comes to the end of them.
        horizon: frames of a training clip.
        fps: frames per second.
        weights: a file that ``fit`` wrote; ``random`` for random weights on purpose. Default: random ones, to be
            trained.
    """

    hides = ("text_k",)  # there is no text
    positions = FixedPositions()  # its own, added to the tokens: cached frames cannot move to another time index

    def __init__(
        self,
        size: Size = 16,
        dim: Width = 256,
        layers: Layers = 4,
        heads: Count = 4,
        window: Frames = 4,
        horizon: Frames = 8,
        fps: Count = 8,
        weights: UserPath | None = None,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise UserError(f"FrameTransformer: dim {dim} is not a multiple of heads, {heads}; choose one that is.")
        self.spec = ModelSpec(
            channels=3, height=size, width=size, patch=(size, size), layers=layers, heads=heads, head_dim=dim // heads,
            block=1, window=window, horizon=horizon, fps=fps, predicts="clean",
        )  # fmt: skip
        self.weights = weights
        self.enter = nn.Linear(3 * size * size, dim)
        self.time = nn.Embedding(window, dim)
        self.shape = nn.Embedding(len(CLASSES), dim)
        self.level = nn.Sequential(nn.Linear(2 * WAVES, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.layers = nn.ModuleList(Layer(number, dim, heads) for number in range(layers))
        self.leave = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 3 * size * size))
        if (file := named(weights)) is not None:
            load_weights(self, file)

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Memory) -> Tensor:
        shape = self.shape(condition.extra["shape"])  # [B, 1 or F, dim]
        of_frame = functional.silu(self.level(waves(timesteps / TIMESTEPS).to(latents.dtype)) + shape)  # [B, F, dim]
        x = self.enter(latents.flatten(2)) + self.time(self._times(memory).to(latents.device))  # [B, F, dim]
        for layer in self.layers:
            x = layer(x, of_frame, memory)
        return self.leave(x).view_as(latents)

    @torch.compiler.disable  # these numbers change from frame to frame, and a compiled graph would keep them
    def _times(self, memory: Memory) -> Tensor:
        """Time positions of the frames of this pass, ``[F]``: 0, 1, 2, ... in training, any in a rollout."""
        return torch.tensor([int(time) % self.spec.window for time in memory.now.times])


class Layer(nn.Module):
    """Attention to earlier frames, then a feed-forward network; both are scaled and shifted for each frame."""

    def __init__(self, number: int, dim: int, heads: int) -> None:
        super().__init__()
        self.number, self.heads = number, heads
        self.modulation = nn.Linear(dim, 4 * dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, of_frame: Tensor, memory: Memory) -> Tensor:
        """Frames ``[B, F, dim]``, and features of level and class of the same shape, to frames."""
        scale1, shift1, scale2, shift2 = self.modulation(of_frame).chunk(4, dim=-1)
        normal = functional.layer_norm(x, x.shape[-1:]) * (1 + scale1) + shift1
        q, k, v = self.qkv(normal).unflatten(2, (-1, self.heads, x.shape[-1] // self.heads)).unbind(2)
        # The one call that a rollout and training ask for: which frames are read is the memory's decision.
        x = x + self.out(memory.attend(self.number, q, k, v).flatten(2))
        normal = functional.layer_norm(x, x.shape[-1:]) * (1 + scale2) + shift2
        return x + self.mlp(normal)


def waves(sigma: Tensor) -> Tensor:
    """Noise levels ``[...]`` in 0..1 as sines and cosines, float32 ``[..., 2 * WAVES]``."""
    angle = sigma[..., None].float() * torch.logspace(0, 2, WAVES, device=sigma.device)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
