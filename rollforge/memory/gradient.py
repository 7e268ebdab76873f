"""Memory of a rollout that is trained through: passes with gradients read keys and values that have them."""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor

from rollforge.memory.base import Memory
from rollforge.memory.rollout import RolloutMemory
from rollforge.spec import Step


class GradientMemory(RolloutMemory):
    """Cached attention through which gradients flow from block to block.

    Raw keys and values of all live frames are kept with their graphs, and rotated again in each pass with gradients.
    Where the last denoising pass of a block ``keeps`` its keys and values and a commit pass follows, later blocks read
    the values of the commit with the gradient of the denoising pass: ``commit + (last - stop(last))``, as in the
    released training of Self Forcing. Otherwise they read the keys and values of the commit.
    """

    def end(self, live: frozenset[int], moves: frozenset[int] | None = None) -> None:
        """As in ``RolloutMemory``, except that all live frames stay raw: rotated ones may have lost their graph."""
        super().end(live)

    def frozen(self) -> Memory:
        again = copy(self)
        again._writes, again.watch, again._states = False, None, self._states.copy()
        return again

    def _store(self, step: Step) -> None:
        last = {frame: self.raw[frame] for frame in step.frames if step.phase.final and frame in self.raw}
        super()._store(step)
        for frame, left in last.items():
            layers = zip(self.raw[frame], left, strict=True)
            self.raw[frame] = [each and tuple(map(straight_through, each, before)) for each, before in layers]


@torch.enable_grad()
def straight_through(value: Tensor, source: Tensor) -> Tensor:
    """``value``, whose gradient goes to ``source``."""
    return value.detach() + (source - source.detach())
