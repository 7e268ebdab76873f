"""A linear network that remembers what it was shown, a real one, and two clips, for the tests of objectives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rollforge.backbones.base import Backbone, Condition, DecodeStream, VideoCodec
from rollforge.backbones.pocket.text import PocketText
from rollforge.backbones.wan.network import Wan
from rollforge.memory.base import Memory
from rollforge.objectives import Clips
from rollforge.objectives.flow import FlowMatching
from rollforge.pipeline import Pipeline
from rollforge.policies import Window
from rollforge.samplers import Euler
from rollforge.spec import ModelSpec

BLOCK, FRAMES = 3, 9
CAPTIONS = ["a red ball over snow at day", "a blue box over sand at night"]


class Linear(Backbone):
    """Predicts ``slope * latents + offset`` and remembers what it was shown."""

    def __init__(self, slope: float = 0.7, offset: float = 0.1) -> None:
        super().__init__()
        self.slope, self.offset = nn.Parameter(torch.tensor(slope)), offset
        self.spec = ModelSpec(3, 4, 4, (2, 2), 1, 1, 8, BLOCK, FRAMES, FRAMES, 8.0)
        self.shown: list[tuple[Tensor, Tensor, Condition]] = []

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Memory) -> Tensor:
        self.shown.append((latents.detach().clone(), timesteps.clone(), condition))
        heads = latents.new_zeros(len(latents), latents.shape[1] * self.spec.tokens, 1, 8)
        memory.attend(0, heads, heads, heads)
        return self.slope * latents + self.offset


class Pixels(VideoCodec):
    """Latents that are the pixels."""

    def encode(self, video: Tensor) -> Tensor:
        return video

    def stream(self) -> DecodeStream:
        raise NotImplementedError

    def pixel_frames(self, latent_frames: int) -> int:
        return latent_frames

    def pixel_size(self, width: int, height: int) -> tuple[int, int]:
        return width, height


def pipeline(backbone: Backbone | None = None, **more: Any) -> Pipeline:
    parts: dict[str, Any] = {"conditioner": PocketText(), "codec": Pixels(), "policy": Window(), "sampler": Euler()}
    return Pipeline(backbone=backbone or Linear(), **parts | more)


def network() -> Wan:
    """A real network, so that what a block sees matters."""
    torch.manual_seed(7)
    sizes = {"dim": 32, "layers": 2, "heads": 2, "ffn_dim": 64, "freq_dim": 32, "text_dim": 64, "text_len": 4}
    return Wan(channels=3, height=4, width=4, block=BLOCK, window=FRAMES, horizon=FRAMES, **sizes).requires_grad_(True)


def clips(frames: int = FRAMES) -> Clips:
    drawn = torch.Generator().manual_seed(1)
    return {"video": torch.randint(256, (2, frames, 4, 4, 3), generator=drawn).byte(), "caption": list(CAPTIONS)}


def latents_of(batch: Clips) -> Tensor:
    return batch["video"].permute(0, 1, 4, 2, 3) / 255


def errors(objective: FlowMatching, backbone: Backbone, latents: Tensor, noise: Tensor, seed: int = 5) -> Tensor:
    """Errors ``[B, F]`` under the same draws every time."""
    owner = pipeline(backbone)
    torch.manual_seed(seed)
    return objective.flow_error(owner, latents, noise, owner.condition(CAPTIONS)).detach()


def two() -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(2)
    latents, noise = torch.randn(2, 2, FRAMES, 3, 4, 4, generator=drawn)
    return latents, noise
