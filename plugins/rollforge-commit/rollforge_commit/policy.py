"""The policy wrapper: commit passes read the newest frames and nothing else."""

from __future__ import annotations

from dataclasses import replace

from rollforge.errors import UserError
from rollforge.policies import CachePolicy, PolicyWrapper
from rollforge.ranges import Count
from rollforge.spec import Capacity, ModelSpec, ReadPlan, Segment, Step

FAR = 1_000_000  # a block of a video that is as long as any


class CommitRecent(PolicyWrapper):
    """Denoises as ``policy`` does, and lets a commit pass read only the newest W frames, its block included.

    Neither a sink nor replayed, retrieved or virtual frames reach a commit pass. The newest frames are read at their
    usual times, those just before the block's own. Given frames enter by commit passes too; passes that read frames
    again are left as they are. Source: Commit Forcing, whose authors take
    W = 9 with SGF, 12 with LongLive and 6 with Context Forcing. On Rolling Sink they take the newest 21 frames;
    6, which needs no frame that Rolling Sink does not keep anyway, is our extrapolation.

    Args:
        policy: the policy that is wrapped.
        frames: W, at least a block.
        once_full: whether it begins only when the context of ``policy`` is full; otherwise from the first block on.

    Raises:
        UserError: W is smaller than a block, when a rollout starts.
    """

    def __init__(self, policy: CachePolicy, frames: Count = 6, once_full: bool = True) -> None:
        super().__init__(policy)
        self.frames, self.once_full = frames, once_full

    def check_sizes(self, spec: ModelSpec, longest: int) -> None:
        if self.frames < spec.block:
            raise UserError(
                f"CommitRecent got frames={self.frames}, but a block of this network has {spec.block} frames, which "
                f"count too: raise frames to {spec.block} or more."
            )
        super().check_sizes(spec, longest)

    def plan(self, step: Step) -> ReadPlan:
        plan = self.policy.plan(step)
        full = step.start >= self.policy.visible(step.block)
        if not step.phase.final or (self.once_full and not full):
            return plan
        newest = self._newest(step.start, len(step.frames))
        run = Segment(newest.start, plan.query - len(newest), len(newest))
        return replace(plan, segments=(run,) if len(newest) else ())

    def live(self, start: int, block: int) -> frozenset[int]:
        return self.policy.live(start, block) | {*self._newest(start, block)}

    def moves(self, start: int, block: int) -> frozenset[int]:
        kept, moves = self.policy.live(start, block), self.policy.moves(start, block)
        if start - 1 not in moves:  # the newest frames are read at one time only
            return moves
        return moves | ({*self._newest(start, block)} - kept)

    def visible(self, block: int) -> int:
        return max(self.policy.visible(block), self.frames - block)

    def capacity(self, block: int) -> Capacity | None:
        if (inside := self.policy.capacity(block)) is None:
            return None
        start = FAR * block
        more = len(self.live(start, block)) - len(self.policy.live(start, block))
        moving = len(self.moves(start, block)) - len(self.policy.moves(start, block))
        return Capacity(inside.frames + more, inside.moves + moving)

    def _newest(self, start: int, count: int) -> range:
        """The newest frames before those of a pass of ``count`` frames."""
        return range(max(0, start - max(0, self.frames - count)), start)
