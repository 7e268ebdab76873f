"""A toy: numbers from two modes. A student that starts as one broad Gaussian must end with both of them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from rollforge.backbones.base import Backbone, Condition, Conditioner
from rollforge.memory import Memory
from rollforge.noise import NoisePrior, Shape
from rollforge.objectives.gan import GAN
from rollforge.objectives.matching import Matching
from rollforge.objectives.self_forcing import SelfForcing
from rollforge.pipeline import Pipeline
from rollforge.policies import Window
from rollforge.samplers import FewStep
from rollforge.spec import ModelSpec

MODE, NARROW, BROAD, ROWS, WIDTH = 2.0, 0.4, 2.0, 256, 32
SPEC = ModelSpec(1, 1, 1, (1, 1), 2, 1, WIDTH, 1, 1, 1, 1.0)


class Numbers(Backbone):
    """A small network over the flow of one Gaussian, ``x0 ~ N(0, BROAD^2)``."""

    weights = "random"

    def __init__(self, fineness: float) -> None:
        super().__init__()
        self.spec = SPEC
        self.first = nn.Linear(3, WIDTH)
        self.first.weight.data *= fineness
        self.inner = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU()) for _ in range(2))
        self.last = nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def layer_modules(self) -> list[nn.Module]:
        return [*self.inner]

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Memory) -> Tensor:
        x, sigma = latents.flatten(2), (timesteps / 1000)[..., None]
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

    def __init__(self) -> None:
        super().__init__()
        self.spec, self.unused = SPEC, nn.Parameter(torch.zeros(1))

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


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """The flow of ``N(0, BROAD^2)``."""
    keep = 1 - sigma
    return (sigma - keep * BROAD**2) / ((keep * BROAD) ** 2 + sigma**2) * x


def true_numbers() -> Tensor:
    signs = torch.randint(2, (ROWS, 1, 1, 1, 1)) * 2.0 - 1
    return signs * MODE + NARROW * torch.randn(ROWS, 1, 1, 1, 1)


@dataclass(frozen=True)
class Setting:
    """A matching loss, and how a student is trained by it."""

    matching: Matching
    ratio: int
    updates: int
    rate: float
    end: float  # of the rate, which falls to this share of itself
    fineness: float  # factor of the first weights: how fast what the networks compute may change


SETTINGS = {
    "gan": Setting(GAN(taps=(0.0, 0.5), shift=1, lowest=20, highest=500), 1, 400, 2e-3, 1.0, 1.0),
}


def trained(setting: Setting) -> Tensor:
    """What a student makes at the end."""
    torch.manual_seed(1)
    student = Student(setting.fineness)
    pipeline = Pipeline(
        backbone=student, conditioner=Nothing(), codec=None, policy=Window(1),  # type: ignore[arg-type]
        sampler=FewStep((1000,), shift=1), noise=Together(),
    )  # fmt: skip
    objective = SelfForcing(
        setting.matching, Numbers(setting.fineness), TwoModes(), ratio=setting.ratio, checkpoint=False
    )
    assert objective.critic is not None
    networks = {True: objective.critic, False: student}
    optimizers = {critic: torch.optim.Adam(each.parameters(), betas=(0.0, 0.99)) for critic, each in networks.items()}
    steps = setting.updates * (setting.ratio + 1)
    for objective.step in range(steps):
        turn = objective.trains_critic
        for critic, network in networks.items():
            network.requires_grad_(critic == turn)
        clips = {"caption": [""] * ROWS, "latents": true_numbers()}
        loss = objective(pipeline, clips)["loss"]  # type: ignore[arg-type]
        share = objective.step / steps
        optimizers[turn].param_groups[0]["lr"] = setting.rate * (1 - share * (1 - setting.end))
        optimizers[turn].zero_grad()
        loss.backward()
        optimizers[turn].step()
    with torch.no_grad():
        return torch.cat([objective.roll(pipeline, Nothing()([""] * ROWS)).flatten() for _ in range(8)])


@pytest.mark.matrix
@pytest.mark.parametrize("name", SETTINGS)
def test_both_modes_are_found_from_one_broad_gaussian(name: str) -> None:
    made = trained(SETTINGS[name])
    near = [(made - mode).abs() < 3 * NARROW for mode in (-MODE, MODE)]
    for each in near:
        assert 0.35 <= each.float().mean().item() <= 0.65
