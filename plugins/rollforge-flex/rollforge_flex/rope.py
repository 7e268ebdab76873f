"""Rotary embedding whose slow temporal frequencies are interpolated where a plan is longer than the trained horizon.

No code of FLEX (arXiv 2602.14027) is public. What is here is our reading of its abstract: the rule known as
NTK-by-parts, with the largest time difference of the plan in place of the length of a context.
"""

from __future__ import annotations

import math

from torch import Tensor

from rollforge.errors import UserError
from rollforge.positions import Rope
from rollforge.ranges import Count, NonNegative, Positive
from rollforge.spec import ModelSpec, ReadPlan, Step


class FlexRope(Rope):
    """Rotary embedding that interpolates slow temporal frequencies where the plan is longer than the trained horizon.

    A frequency with period P makes ``turns = horizon / P`` turns within the horizon. With ``turns >= beta`` it stays
    as it is; with ``turns <= alpha`` it is multiplied by ``horizon / max(horizon, span)``; between them the factor
    changes linearly. ``span`` is the largest difference between two time indices of a plan, the frames of the pass
    included. A plan within the horizon, and a training pass, get plain rotary embedding.

    All retained frames are kept raw, since their keys are rotated again whenever the factor changes.

    Args:
        alpha: turns up to which a frequency is interpolated in full.
        beta: turns from which on it is left alone; at least ``alpha``.
        horizon: latent frames that the model was trained on. Default: the backbone's.
        theta: base of the geometric series of frequencies, on all three axes.

    Raises:
        UserError: a value is out of range, or alpha is above beta.
    """

    def __init__(
        self, alpha: NonNegative = 0.5, beta: Positive = 1.0, horizon: Count | None = None, theta: Positive = 10000.0
    ) -> None:
        super().__init__(theta)
        if alpha > beta:
            raise UserError(f"FlexRope got alpha={alpha:g} and beta={beta:g}; alpha must be at most beta.")
        self.alpha, self.beta, self.horizon = alpha, beta, horizon

    def frequencies(self, spec: ModelSpec, step: Step | None, plan: ReadPlan | None) -> Tensor:
        plain = self.temporal(spec, step)
        horizon = self.horizon or spec.horizon
        if step is None or plan is None or (length := span(plan, len(step.frames))) <= horizon:
            return plain
        unchanged = self._unchanged(horizon * plain / (2 * math.pi))
        return plain * (unchanged + (1 - unchanged) * horizon / length)

    def _unchanged(self, turns: Tensor) -> Tensor:
        """How far each frequency keeps its speed: 0 is interpolated in full, 1 left alone."""
        if self.alpha == self.beta:
            return (turns >= self.beta).to(turns)
        return ((turns - self.alpha) / (self.beta - self.alpha)).clamp(0, 1)


def span(plan: ReadPlan, frames: int) -> int:
    """The largest difference between two time indices of a plan and of the ``frames`` of its pass."""
    times = [plan.query, plan.query + frames - 1, *(time for _, time in plan.entries())]
    return max(times) - min(times)
