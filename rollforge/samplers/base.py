"""The sampler: a generator of forward passes that reads like the algorithm in its paper."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

from torch import Tensor

from rollforge.spec import Step

TIMESTEPS = 1000.0  # the timestep of pure noise


@dataclass(frozen=True)
class Pass:
    """A request: run these latents ``[B, F, C, H, W]`` at this timestep. The answer is the predicted flow.

    ``lane`` names the condition (``prompt`` or ``negative``); each lane has a memory of its own.
    """

    step: Step
    latents: Tensor
    timestep: float
    lane: str = "prompt"


@dataclass(frozen=True)
class Finished:
    """A block is done. Nothing is sent back."""

    step: Step
    latents: Tensor


Passes = Generator[Pass | Finished, Tensor, None]


@dataclass(frozen=True)
class Job:
    """What a sampler works on: the blocks to make, in order, and their noise by ``(step, level)``."""

    steps: Iterable[Step]
    noise: Callable[[Step, int], Tensor]


class Sampler(ABC):
    """Denoises blocks by asking for forward passes."""

    lanes: tuple[str, ...] = ("prompt",)

    @abstractmethod
    def run(self, job: Job) -> Passes:
        """Yields ``Pass`` requests, is sent the flow of each, and yields ``Finished`` blocks."""


def shifted(timestep: float, shift: float) -> float:
    """Moves a timestep towards noise: ``sigma' = k sigma / (1 + (k - 1) sigma)``."""
    sigma = timestep / TIMESTEPS
    return TIMESTEPS * shift * sigma / (1 + (shift - 1) * sigma)


def add_noise(clean: Tensor, noise: Tensor, timestep: float) -> Tensor:
    """Flow matching: ``(1 - sigma) clean + sigma noise``."""
    sigma = timestep / TIMESTEPS
    return (1 - sigma) * clean + sigma * noise
