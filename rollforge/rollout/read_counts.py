"""Counts of blocks that read what a plain window does not: they show whether a method is active."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rollforge.spec import Phase, ReadPlan, Segment, Step
from rollforge.state import State

FEATURES = {
    "blocks": "blocks that were denoised",
    "older": "read a frame from before the contiguous frames that precede the block",
    "moved": "read a frame at another distance in time than its own",
    "repeated": "read a frame twice",
    "virtual": "read a virtual frame",
    "biased": "read frames with a bias",
    "limited": "read frames in some layers, heads, tokens or a branch only",
    "commit": "were committed under another plan than they were denoised under",
    "reread": "had earlier frames read again before them",
}
"""What is counted; each block counts once."""


class ReadCounts:
    """Counts the blocks of one rollout by what their passes read."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(FEATURES, 0)
        self.latest: dict[str, int] = {}  # the first frame of the last block that counted
        self.denoised: tuple[int, ReadPlan] | None = None

    def count(self, step: Step, plan: ReadPlan, frontier: int) -> None:
        """A pass of the block that begins at ``frontier``, or of an earlier one."""
        if step.phase is Phase.DENOISE:
            self.denoised = step.start, plan
            for feature in ("blocks", *features(step, plan)):
                self._count(feature, step.start)
        elif step.phase is Phase.RECACHE:
            self._count("reread", frontier)
        elif step.phase is Phase.COMMIT and self._differs(step, plan):
            self._count("commit", step.start)

    def state_dict(self) -> State:
        return {"counts": self.counts, "latest": self.latest}

    def load_state_dict(self, state: Mapping[str, Mapping[str, int]]) -> None:
        self.counts = dict.fromkeys(FEATURES, 0) | dict(state.get("counts", {}))
        self.latest = dict(state.get("latest", {}))

    def _differs(self, step: Step, plan: ReadPlan) -> bool:
        """Whether a commit reads other frames than the denoising passes of its block, where they are known."""
        start, denoised = self.denoised or (-1, plan)
        return start == step.start and sorted(denoised.entries()) != sorted(plan.entries())

    def _count(self, feature: str, start: int) -> None:
        if self.latest.get(feature, -1) < start:
            self.counts[feature] += 1
            self.latest[feature] = start


def features(step: Step, plan: ReadPlan) -> Iterator[str]:
    """What is special of a plan, by the names of ``FEATURES``."""
    entries = plan.entries()
    contents = {content for content, _ in entries}
    recent = step.start
    while recent - 1 in contents:
        recent -= 1
    checks = {
        "older": any(0 <= content < recent for content in contents),
        "moved": any(content >= 0 and time - plan.query != content - step.start for content, time in entries),
        "repeated": len(contents) < len(entries),
        "virtual": any(content < 0 for content in contents),
        "biased": any(run.bias for run in plan.segments),
        "limited": any(run.branch or any(each is not None for each in _limits(run)) for run in plan.segments),
    }
    return (name for name, holds in checks.items() if holds)


def _limits(run: Segment) -> tuple[object, object, object]:
    return run.layers, run.heads, run.tokens
