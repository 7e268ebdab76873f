"""``FewStep`` with the noise levels of published models."""

from __future__ import annotations

from typing import Literal

from rollforge.samplers import FewStep
from rollforge.samplers.base import Timestep

FOUR = (1000.0, 750.0, 500.0, 250.0)
LEVELS = {4: FOUR, 2: (1000.0, 500.0), 1: (1000.0,)}
"""Levels before the shift, by the number of steps. That the one step is at 1000 is our reading."""


class CausalForcing(FewStep):
    """The levels of Causal Forcing and Causal Forcing++, shifted by 5.

    The models of 1 and 2 steps take the four steps of the other for the first block that they make. After a given first
    frame that is the block after it.

    Args:
        steps: of the model: 4, 2 or 1.
        context_noise: timestep of the commit pass whose keys and values later blocks read.
    """

    def __init__(self, steps: Literal[4, 2, 1] = 4, context_noise: Timestep = 0.0) -> None:
        super().__init__(LEVELS[steps], 5.0, context_noise, FOUR)


class CausVid(FewStep):
    """The levels of CausVid, which are used without a shift.

    Args:
        context_noise: timestep of the commit pass whose keys and values later blocks read.
    """

    def __init__(self, context_noise: Timestep = 0.0) -> None:
        super().__init__((1000.0, 757.0, 522.0), 1.0, context_noise)
