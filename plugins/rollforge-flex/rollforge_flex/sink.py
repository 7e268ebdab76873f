"""The first frames of a video, read by all later blocks of any policy: a sink for models trained without one."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from rollforge.errors import UserError
from rollforge.policies import CachePolicy, PolicyWrapper
from rollforge.ranges import Count
from rollforge.spec import Capacity, ModelSpec, ReadPlan, Segment, Step


class InferenceSink(PolicyWrapper):
    """Adds the first frames of the video to whatever another policy reads, in every pass.

    Frames that the policy reads by itself are not read twice. The context grows by at most ``sink`` frames; to keep its
    size, give the policy as many frames fewer.

    Args:
        policy: the policy that it is added to.
        sink: latent frames of the sink.
        indices: ``static``: at their own time indices, which suits policies that read recent frames at theirs.
            ``slid``: just before the earliest time index of the plan.
    """

    def __init__(self, policy: CachePolicy, sink: Count = 3, indices: Literal["static", "slid"] = "static") -> None:
        super().__init__(policy)
        self.sink, self.indices = sink, indices

    def plan(self, step: Step) -> ReadPlan:
        plan = self.policy.plan(step)
        read = {content for content, _ in plan.entries()}
        missing = [frame for frame in range(min(self.sink, step.start)) if frame not in read]
        earliest = min([plan.query, *(time for _, time in plan.entries())])
        times = missing if self.indices == "static" else range(earliest - len(missing), earliest)
        added = (Segment(frame, time, 1) for frame, time in zip(missing, times, strict=True))
        return replace(plan, segments=(*added, *plan.segments))

    def live(self, start: int, block: int) -> frozenset[int]:
        return self.policy.live(start, block) | self._frames(start)

    def moves(self, start: int, block: int) -> frozenset[int]:
        moved = self.policy.moves(start, block)
        # a policy that moves nothing has read the sink at its own indices, where static ones stay
        return moved | self._frames(start) if moved or self.indices == "slid" else moved

    def visible(self, block: int) -> int:
        return self.policy.visible(block) + self.sink

    def check_sizes(self, spec: ModelSpec, longest: int) -> None:
        if self.sink >= spec.window:
            raise UserError(
                f"InferenceSink got sink={self.sink}, but the backbone's window is {spec.window} latent frames; choose "
                "a smaller sink."
            )
        super().check_sizes(spec, longest)

    def capacity(self, block: int) -> Capacity | None:
        most = self.policy.capacity(block)
        return most and Capacity(most.frames + self.sink, most.moves + self.sink)

    def _frames(self, start: int) -> frozenset[int]:
        return frozenset(range(min(self.sink, start)))
