"""The second read of FreqForcing: early frames, in a branch of its own."""

from __future__ import annotations

from collections.abc import Sequence

from rollforge.errors import UserError
from rollforge.policies import CachePolicy, PolicyWrapper, Window
from rollforge.ranges import Count, CountFromZero
from rollforge.spec import Capacity, Phase, ReadPlan, Segment, Step


class FreqForcing(PolicyWrapper):
    """Reads early frames in a branch of their own, in the first denoising steps of blocks past the horizon.

    The anchors are read at the time indices just before everything that ``policy`` reads. A part of kind ``combine``
    joins both reads; ``LowPassBlend`` is that of the paper. Source: FreqForcing (arXiv 2607.27110); the steps, the
    frames' numbers and their time indices are our reading.

    Args:
        policy: what is read locally. Default: ``Window()``.
        anchors: the early frames, in rising order.
        steps: the denoising steps that read them, counted from 1.
        horizon: the frame from which on blocks read them, above all anchors.

    Raises:
        UserError: a value is not in its range, anchors do not rise or do not lie before the horizon, or there are no
            steps; when a rollout starts: the sampler has fewer steps, or no part of kind ``combine`` is there.
    """

    def __init__(
        self,
        policy: CachePolicy | None = None,
        anchors: Sequence[CountFromZero] = (0, 3, 6, 9, 12, 15),
        steps: Sequence[Count] = (1, 2),
        horizon: Count = 21,
    ) -> None:
        super().__init__(policy or Window())
        known = [*anchors]
        if not known or known != sorted(set(known)) or known[-1] >= horizon or not steps:
            raise UserError(
                f"FreqForcing got anchors={known}, steps={[*steps]} and horizon={horizon}; expected one step or more, "
                "and anchors that rise and lie before the horizon."
            )
        self.anchors, self.steps, self.horizon = known, [*steps], horizon

    @property
    def branches(self) -> int:  # type: ignore[override] # read only, as it follows from the wrapped policy
        return self.policy.branches + 1

    @property
    def denoising_steps(self) -> int:  # type: ignore[override]
        return max(self.policy.denoising_steps, *self.steps)

    def plan(self, step: Step) -> ReadPlan:
        plan = self.policy.plan(step)
        if step.phase is not Phase.DENOISE or step.level + 1 not in self.steps or step.start < self.horizon:
            return plan
        first = min((time for _, time in plan.entries()), default=plan.query) - len(self.anchors)
        runs = [Segment(frame, first + n, 1, branch=self.policy.branches) for n, frame in enumerate(self.anchors)]
        return ReadPlan((*plan.segments, *runs), plan.query, plan.causal)

    def live(self, start: int, block: int) -> frozenset[int]:
        return self.policy.live(start, block) | self._kept(start)

    def moves(self, start: int, block: int) -> frozenset[int]:
        return self.policy.moves(start, block) | self._kept(start)

    def visible(self, block: int) -> int:
        return self.policy.visible(block) + len(self.anchors)

    def capacity(self, block: int) -> Capacity | None:
        known, more = self.policy.capacity(block), len(self.anchors)
        return known and Capacity(known.frames + more, known.moves + more)

    def _kept(self, start: int) -> frozenset[int]:
        return frozenset(frame for frame in self.anchors if frame < start)
