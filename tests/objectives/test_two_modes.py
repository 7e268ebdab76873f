"""A toy: pixels from two modes. A student that starts as one broad Gaussian must end with both of them.

DMD and SiD see pictures of 8x8 independent pixels. They divide by the mean distance over a picture, which says little
of a single number: its inverse has no finite mean, and on single numbers neither finds the modes, whatever the rates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rollforge.backbones.base import Backbone, Condition, Conditioner
from rollforge.memory import Memory
from rollforge.noise import NoisePrior, Shape
from rollforge.objectives import DMD, GAN, Matching, SelfForcing, SiD
from rollforge.pipeline import Pipeline
from rollforge.policies import Window
from rollforge.samplers import FewStep
from rollforge.spec import ModelSpec

MODE, NARROW, BROAD, PIXELS, WIDTH = 2.0, 0.4, 2.0, 256, 32
"""``PIXELS`` in a batch."""


class Numbers(Backbone):
    """A small network of each pixel alone, over the flow of one Gaussian, ``x0 ~ N(0, BROAD^2)``."""

    weights = "random"

    def __init__(self, side: int) -> None:
        super().__init__()
        self.spec = spec(side)
        self.first = nn.Linear(3, WIDTH)
        self.inner = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU()) for _ in range(2))
        self.last = nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def layer_modules(self) -> list[nn.Module]:
        return [*self.inner]

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Memory) -> Tensor:
        x = latents.flatten(1)[..., None]  # [B, pixels, 1]
        sigma = (timesteps / 1000)[..., None].expand_as(x)
        hidden = self.first(torch.cat([x, sigma, x * (1 - sigma)], dim=-1)).sin()
        for layer in self.inner:
            hidden = hidden + layer(hidden)
        return (self.last(hidden) + gaussian(x, sigma)).view_as(latents)


class Student(Numbers):
    """At pure noise its one step gives ``BROAD`` times the noise."""

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Memory) -> Tensor:
        x, sigma = latents, (timesteps / 1000)[..., None, None, None]
        wanted = (1 - BROAD) * x - gaussian(x, sigma)
        return super().forward(latents, timesteps, condition, memory) + wanted


class TwoModes(Backbone):
    """The exact flow of a mixture of two Gaussians at ``-MODE`` and ``MODE``."""

    weights = "random"

    def __init__(self, side: int) -> None:
        super().__init__()
        self.spec, self.unused = spec(side), nn.Parameter(torch.zeros(1))

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Memory) -> Tensor:
        sigma = (timesteps / 1000)[..., None, None, None]
        keep = 1 - sigma
        variance = (keep * NARROW) ** 2 + sigma**2
        share = torch.sigmoid(2 * keep * MODE * latents / variance)  # of the upper mode
        clean = torch.zeros_like(latents)
        for mean, weight in ((MODE, share), (-MODE, 1 - share)):
            clean = clean + weight * (mean + keep * NARROW**2 / variance * (latents - keep * mean))
        return (latents - clean) / sigma


class Nothing(Conditioner):
    def forward(self, prompts: list[str]) -> Condition:  # type: ignore[override]
        return Condition("", torch.zeros(len(prompts), 1, 1))


class Together(NoisePrior):
    """All samples at once, which is faster."""

    def draw(self, seed: int, sample: int, frames: range, level: int, shape: Shape) -> Tensor:
        raise NotImplementedError

    def batch(self, seed: int, samples: tuple[int, ...], frames: range, level: int, shape: Shape) -> Tensor:
        return torch.randn(len(samples), len(frames), *shape, generator=torch.Generator().manual_seed(seed + level))


def spec(side: int) -> ModelSpec:
    """Pictures of so many pixels on each side, and of one channel."""
    return ModelSpec(1, side, side, (1, 1), 2, 1, WIDTH, 1, 1, 1, 1.0)


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """The flow of ``N(0, BROAD^2)``."""
    keep = 1 - sigma
    return (sigma - keep * BROAD**2) / ((keep * BROAD) ** 2 + sigma**2) * x


def true_pictures(rows: int, side: int) -> Tensor:
    signs = torch.randint(2, (rows, 1, 1, side, side)) * 2.0 - 1
    return signs * MODE + NARROW * torch.randn(rows, 1, 1, side, side)


@dataclass(frozen=True)
class Setting:
    """A matching loss, and how a student is trained by it."""

    matching: Matching
    side: int
    ratio: int
    updates: int  # of the student
    rate: float  # of learning
    end: float = 0.0  # of that rate, which falls to this share of itself


PLAIN: dict[str, Any] = {"guidance": 0.0, "shift": 1.0, "score_shift": None}
SETTINGS = {
    "dmd": Setting(DMD(**PLAIN), 8, 5, 400, 2e-3),
    "sid": Setting(SiD(**PLAIN), 8, 5, 400, 2e-3),
    "gan": Setting(GAN(taps=(0.0, 0.5), shift=1, lowest=20, highest=500), 1, 1, 400, 2e-3, 1.0),
}


def trained(setting: Setting, seed: int) -> Tensor:
    """The pixels that a student makes at the end."""
    torch.manual_seed(seed)
    student, rows = Student(setting.side), PIXELS // setting.side**2
    pipeline = Pipeline(
        backbone=student, conditioner=Nothing(), codec=None, policy=Window(1),  # type: ignore[arg-type]
        sampler=FewStep((1000,), shift=1), noise=Together(),
    )  # fmt: skip
    objective = SelfForcing(
        setting.matching, Numbers(setting.side), TwoModes(setting.side), ratio=setting.ratio, checkpoint=False
    )
    assert objective.critic is not None
    networks = {True: objective.critic, False: student}
    optimizers = {critic: torch.optim.Adam(each.parameters(), betas=(0.0, 0.99)) for critic, each in networks.items()}
    steps = setting.updates * (setting.ratio + 1)
    for objective.step in range(steps):
        turn = objective.trains_critic
        for critic, network in networks.items():
            network.requires_grad_(critic == turn)
        clips = {"caption": [""] * rows, "latents": true_pictures(rows, setting.side)}
        loss = objective(pipeline, clips)["loss"]  # type: ignore[arg-type]
        share = objective.step / steps
        optimizers[turn].param_groups[0]["lr"] = setting.rate * (1 - share * (1 - setting.end))
        optimizers[turn].zero_grad()
        loss.backward()
        optimizers[turn].step()
    with torch.no_grad():
        return torch.cat([objective.roll(pipeline, Nothing()([""] * rows)).flatten() for _ in range(16)])


@pytest.mark.matrix
@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("name", SETTINGS)
def test_both_modes_are_found_from_one_broad_gaussian(name: str, seed: int) -> None:
    assert_both_modes(trained(SETTINGS[name], seed))


@pytest.mark.parametrize("matching", [DMD, SiD])
def test_both_modes_are_found_in_a_short_training(matching: Callable[..., Matching]) -> None:
    assert_both_modes(trained(Setting(matching(**PLAIN), 8, 3, 150, 4e-3), 1))


def assert_both_modes(made: Tensor) -> None:
    for mode in (-MODE, MODE):
        near = ((made - mode).abs() < 3 * NARROW).float().mean().item()
        assert 0.35 <= near <= 0.65, f"{near:.2f} at {mode}"
