"""How many latent frames a rollout keeps at each moment: its plans carried out with integers and no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace

from rollforge.policies.base import CachePolicy
from rollforge.spec import Phase, PromptSwitch, Step

BLOCKS = 300  # of a video, after which no policy is expected to keep more
LONGEST = 10**5  # frames of a block; no memory holds more, and they are counted one by one


@dataclass(frozen=True)
class Moment:
    """Latent frames at one moment of a pass.

    Args:
        raw: frames kept raw, in the memories of all branches together.
        staged: frames whose keys and values a writing pass has set aside.
        passing: frames in the network; 0 when the pass is over and its keys and values are stored.
        turned: raw frames whose keys are rotated anew.
    """

    raw: int
    staged: int
    passing: int
    turned: int


@dataclass(frozen=True)
class Held:
    """What one video keeps under a policy, in latent frames.

    Args:
        view: of the buffer of each layer.
        raw: kept raw in one memory while a finished block is decoded.
        moments: of the passes that keep most.
        saved: raw, and in their slot alone, in one memory of the largest snapshot.
    """

    view: int
    raw: int
    moments: frozenset[Moment]
    saved: tuple[int, int]


def held(
    policy: CachePolicy, block: int, frames: int, branches: int, all_raw: bool, switches: Sequence[int] | None
) -> Held:
    """Carries out a rollout of ``frames`` latent frames.

    Args:
        policy: left as it is.
        block: frames of a block.
        frames: of the video.
        branches: memories that advance together.
        all_raw: whether every live frame is kept raw.
        switches: frames from which on other prompts are in force; unset, one may come at the last block.
    """
    walk = _Walk(deepcopy(policy), block, frames, branches, all_raw, moments={Moment(0, 0, block, 0)}, longest=block)
    starts = range(0, min(frames, BLOCKS * block), block)
    wanted = starts[-1:] if switches is None else switches
    due = {min(-(-frame // block) * block, starts[-1]) for frame in wanted if frame > 0} - {0}
    if block <= LONGEST:
        with suppress(Exception):  # a policy that fails is named when it is rolled, at the block where it fails
            walk.run(starts, due)
    return Held(policy.visible(block) + walk.longest, walk.resting, frozenset(walk.moments), walk.saved)


@dataclass
class _Walk:
    """The bookkeeping of ``RolloutIterator`` and ``RolloutMemory``, of one memory of ``branches`` equal ones."""

    policy: CachePolicy
    block: int
    frames: int
    branches: int
    all_raw: bool
    moments: set[Moment]
    longest: int
    raw: set[int] = field(default_factory=set)
    shown: set[tuple[int, int]] = field(default_factory=set)
    resting: int = 0
    saved: tuple[int, int] = (0, 0)

    def run(self, starts: Iterable[int], switches: set[int]) -> None:
        """All blocks, each with its first denoising pass and its commit."""
        for index, start in enumerate(starts):
            step = Step(index, start, self.block)
            if start in switches:
                for again in self.policy.on_event(PromptSwitch(step)):
                    self._pass(Step(index, again.start, self.block, Phase.RECACHE, count=len(again)), start)
            self._pass(step, start)
            self.resting = max(self.resting, len(self.raw))
            bare = sum(content not in self.raw for content, _ in self.shown)
            self.saved = max(self.saved, (len(self.raw), bare), key=sum)
            if step.frames.stop < self.frames:  # nothing reads the last block
                self._pass(replace(step, phase=Phase.COMMIT), start)

    def _pass(self, step: Step, now: int) -> None:
        entries = set(self.policy.plan(step).entries())
        count, before = len(step.frames), len(self.raw)
        turned = sum(entry[0] in self.raw for entry in entries - self.shown)
        written = set(step.frames) if step.phase.writes else set[int]()
        self.longest = max(self.longest, count)
        self.shown = {entry for entry in entries if entry[0] not in written}
        self.raw |= written
        stored = len(self.raw)
        if step.phase is Phase.COMMIT:
            self.policy.on_commit(step)
        reached = max(now, step.frames.stop if written else step.start)
        live, moves = self.policy.live(reached, self.block), self.policy.moves(reached, self.block)
        self.raw &= live if self.all_raw else live & (moves | written)
        others = (self.branches - 1) * max(before, len(self.raw))  # some have been through the pass
        self.moments.add(Moment(others + before, len(written), count, turned))
        if written:
            self.moments.add(Moment(others + stored, len(written), 0, 0))
