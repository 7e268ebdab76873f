"""LongLive's "infinity" variant: the same frames, at time indices that never leave the range of the training."""

from __future__ import annotations

from rollforge.policies import LongLive
from rollforge.spec import ReadPlan, Step


class LongLiveInfinity(LongLive):
    """Reads what ``LongLive`` reads, at time indices counted from 0 in the window.

    The sink is at 0, 1, 2, ..., the recent frames right after it, and the block right after them. Keys are kept without
    rotation. At a prompt switch the frames of the window run again as in ``LongLive``, at such time indices too: the
    old sink at 0, 1, 2, ..., and the frames that run again right after it. Source: the "infinity" variant in the
    released code of LongLive 1 (arXiv 2509.22622).

    Arguments and errors are those of ``LongLive``.
    """

    def plan(self, step: Step) -> ReadPlan:
        runs = super().plan(step).segments
        return ReadPlan.contiguous(range(run.content, run.content + run.length) for run in runs)

    def moves(self, start: int, block: int) -> frozenset[int]:
        return self.live(start, block) - frozenset(self._sink(block, start))
