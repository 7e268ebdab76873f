"""The far past, which only some layers read, in some denoising steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice

from rollforge.errors import UserError
from rollforge.policies import CachePolicy, PolicyWrapper
from rollforge.ranges import Count, Finite, Share
from rollforge.spec import Capacity, Phase, ReadPlan, Segment, Step
from rollforge_recency.policy import RecencyForcing

LOG_4 = math.log(4)


class ReadLocus(PolicyWrapper):
    """Adds frames from before the window, every fourth, to what late layers read in the last denoising step.

    The far frames are those whose number is a multiple of ``stride``, that ``policy`` does not read, and that are older
    than the frames that it reads in a row up to the block. The newest of them are read at contiguous time indices just
    before everything else. Source: Recency Forcing (arXiv 2609.19729), the read locus; the number of far frames and
    their time indices are our reading.

    Args:
        policy: what is read otherwise. Default: ``RecencyForcing()``.
        far_frames: far frames that are read, the newest first.
        stride: from one far frame to the next.
        bias: what is added to the logits of their keys. Default: the logarithm of 4.
        steps: the denoising steps that read them, counted from 1.
        layers: the layers that read them, from one share of the depth to another. Default: the last third, layers 20 to
            29 of 30.

    Raises:
        UserError: a value is not in its range, there are no steps, or the shares do not rise; when a rollout starts:
            the sampler has fewer steps.
    """

    shifts = True  # type: ignore[assignment] # far frames are read just before the others

    def __init__(
        self,
        policy: CachePolicy | None = None,
        far_frames: Count = 6,
        stride: Count = 4,
        bias: Finite = LOG_4,
        steps: Sequence[Count] = (4,),
        layers: tuple[Share, Share] = (2 / 3, 1.0),
    ) -> None:
        super().__init__(policy or RecencyForcing())
        if not steps or not layers[0] < layers[1]:
            raise UserError(
                f"ReadLocus got steps={list(steps)} and layers={list(layers)}; expected one step or more, and two "
                "shares of the depth of which the second is larger."
            )
        self.far_frames, self.stride, self.bias = far_frames, stride, bias
        self.steps, self.layers = list(steps), (layers[0], layers[1])

    @property
    def denoising_steps(self) -> int:  # type: ignore[override] # read only, as it follows from the steps
        return max(self.policy.denoising_steps, *self.steps)

    def plan(self, step: Step) -> ReadPlan:
        plan = self.policy.plan(step)
        if step.phase is not Phase.DENOISE or step.level + 1 not in self.steps:
            return plan
        far = self._far(plan, step.start)
        first = min((time for _, time in plan.entries()), default=plan.query) - len(far)
        runs = (Segment(frame, first + n, 1, bias=self.bias, layers=self.layers) for n, frame in enumerate(far))
        return ReadPlan((*plan.segments, *runs), plan.query, plan.causal)

    def live(self, start: int, block: int) -> frozenset[int]:
        return self.policy.live(start, block) | self._kept(start, block)

    def moves(self, start: int, block: int) -> frozenset[int]:
        return self.policy.moves(start, block) | self._kept(start, block)

    def visible(self, block: int) -> int:
        return self.policy.visible(block) + self.far_frames

    def capacity(self, block: int) -> Capacity | None:
        known = self.policy.capacity(block)
        more = self.far_frames + -(-self.policy.visible(block) // self.stride)
        return known and Capacity(known.frames + more, known.moves + more)

    def _far(self, plan: ReadPlan, start: int) -> list[int]:
        """The far frames, oldest first."""
        read = {frame for frame, _ in plan.entries()}
        newest = (self._edge(read, start) - 1) // self.stride * self.stride
        unread = (frame for frame in range(newest, -1, -self.stride) if frame not in read)
        return [*islice(unread, self.far_frames)][::-1]

    def _edge(self, read: set[int], start: int) -> int:
        """The oldest of the frames that are read in a row up to the block at ``start``."""
        while start - 1 in read:
            start -= 1
        return start

    def _kept(self, start: int, block: int) -> frozenset[int]:
        """Far frames of the block at ``start``, and those frames that will be far for a later one."""
        far = self._far(self.policy.plan(Step(-(-start // block), start, block)), start)
        first = far[0] if len(far) == self.far_frames else 0
        return frozenset(range(-(-first // self.stride) * self.stride, start, self.stride))
