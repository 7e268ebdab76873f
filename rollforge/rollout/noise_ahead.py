"""Noise that is drawn on the CPU while the device works. Its values depend on its address alone, and do not change."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from rollforge.spec import Step

Draw = Callable[[Step, int], Tensor]
MOST = 64
"""Draws that are kept at most until they are asked for."""


class NoiseAhead:
    """Draws the noise of a block, and in a thread that of the same level of the block after it.

    Args:
        draw: the noise of a block and level, on the CPU.
        following: the block after one; None where there is none.
        attempts: how often a block has been made again, which changes its noise.
        device: where the noise goes. To CUDA it is copied from pinned memory, so that the host does not wait.
    """

    def __init__(
        self,
        draw: Draw,
        following: Callable[[Step], Step | None],
        attempts: Callable[[Step], Hashable],
        device: torch.device,
    ) -> None:
        self.draw, self.following, self.attempts, self.device = draw, following, attempts, device
        self._drawn: dict[Hashable, Future[Tensor]] = {}

    def __call__(self, step: Step, level: int) -> Tensor:
        due = self._started(step, level)
        del self._drawn[self._key(step, level)]
        if (later := self.following(step)) is not None:
            self._started(later, level)
        for key in [*self._drawn][:-MOST]:  # drawn for nothing: the sampler has taken other levels
            del self._drawn[key]
        return due.result().to(self.device, non_blocking=True)

    def _started(self, step: Step, level: int) -> Future[Tensor]:
        key = self._key(step, level)
        if key not in self._drawn:
            self._drawn[key] = _thread().submit(self._draw, step, level)
        return self._drawn[key]

    def _key(self, step: Step, level: int) -> Hashable:
        return step.index, step.start, level, self.attempts(step)

    def _draw(self, step: Step, level: int) -> Tensor:
        noise = self.draw(step, level)
        return noise.pin_memory() if self.device.type == "cuda" else noise


@cache
def _thread() -> ThreadPoolExecutor:
    """The one thread that draws for all rollouts, so that no prior is asked twice at once."""
    return ThreadPoolExecutor(1, "rollforge-noise")
