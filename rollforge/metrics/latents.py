"""Statistics of latents, the same reduction that guards a rollout against values that are not numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from rollforge.metrics.base import Blocks, Metric


def latent_statistics(latents: Tensor) -> Tensor:
    """Mean, standard deviation (population), largest absolute value of each frame: ``[..., C, H, W]`` to ``[..., 3]``.

    Computed in float32 on the latents' device. NaN in a frame makes all three NaN, infinity the largest infinite.
    """
    flat = latents.float().flatten(-3)
    mean = flat.mean(dim=-1)
    spread = flat.var(dim=-1, correction=0).sqrt()
    return torch.stack([mean, spread, flat.abs().amax(dim=-1)], dim=-1)


class LatentStatistics(Metric):
    """Whether latents keep their scale. Agrees with numpy to 1e-5, relative.

    Curves have one number for each latent frame.

    Curves:
        latent_mean, latent_spread, latent_largest: mean, standard deviation and largest absolute value of the frame.

    Whole video:
        latent_largest_ever: the largest absolute value of all; NaN where a latent was not a number.
    """

    def start(self, prompt: str, fps: float, blocks: Blocks | None = None) -> None:
        self.largest = float("nan")
        self.seen = False

    def update(self, frames: Tensor, start: int) -> dict[str, Tensor]:
        return {}

    def update_latents(self, latents: Tensor, start: int) -> dict[str, Tensor]:
        mean, spread, largest = latent_statistics(latents).cpu().unbind(dim=-1)
        so_far = torch.tensor([self.largest]) if self.seen else largest[:0]
        self.largest, self.seen = torch.cat([so_far, largest]).amax().item(), True
        return {"latent_mean": mean, "latent_spread": spread, "latent_largest": largest}

    def finish(self) -> dict[str, float]:
        return {"latent_largest_ever": self.largest} if self.seen else {}
