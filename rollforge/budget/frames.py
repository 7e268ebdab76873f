"""How many latent frames a rollout keeps at each moment: its plans run with integers and no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace

from rollforge.policies.base import CachePolicy
from rollforge.spec import Capacity, Phase, PromptSwitch, Reencode, Start, Step

BLOCKS = 300  # of a video, after which no policy is expected to keep more
LONGEST = 10**5  # frames of a block; no memory holds more, and they are counted one by one


@dataclass(frozen=True)
class Moment:
    """Latent frames at one moment of a pass.

    Args:
        raw: frames kept raw, in the memories of all branches together.
        staged: frames whose keys and values are set aside as the network computes them: by a writing pass, or because
            the plan leaves out frames that a later one reads as they were rotated first.
        passing: frames in the network; 0 when the pass is over and its keys and values are stored.
        turned: raw frames whose keys are rotated again.
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
        virtual: how many of ``raw`` are virtual frames, which the KV codec leaves as they are.
        moments: of the passes that keep most.
        saved: raw, and in their slot alone, in one memory of the largest snapshot.
    """

    view: int
    raw: int
    virtual: int
    moments: frozenset[Moment]
    saved: tuple[int, int]


def held(
    policy: CachePolicy,
    block: int,
    frames: int,
    branches: int,
    all_raw: bool,
    switches: Sequence[int] | None,
    joint: int | None = None,
) -> Held:
    """Carries out a rollout of ``frames`` latent frames, unless the policy says what it keeps at most.

    Args:
        policy: left as it is.
        block: frames of a block.
        frames: of the video.
        branches: memories that advance together.
        all_raw: whether every live frame is kept raw.
        switches: frames from which on other prompts are in force; unset, one may come at the last block.
        joint: frames of the sampler's largest pass. Default: ``block``.
    """
    if (most := policy.capacity(block)) is not None:
        return _at_most(most, policy.visible(block), max(block, joint or 0), frames, branches, all_raw)
    walk = _Walk(
        deepcopy(policy), block, frames, branches, all_raw, joint or block, {Moment(0, 0, block, 0)}, joint or block
    )
    starts = range(0, min(frames, BLOCKS * block), block)
    wanted = starts[-1:] if switches is None else switches
    due = {min(-(-frame // block) * block, starts[-1]) for frame in wanted if frame > 0} - {0}
    if block <= LONGEST:
        try:
            walk.run(starts, due)
        except Exception:  # one that fails without a network, and is named if it does with one
            walk.expect_most()
        if policy.sees:  # its plans depend on what it will see
            walk.expect_most()
    view = policy.visible(block) + walk.longest
    return Held(view, walk.resting, walk.virtual, frozenset(walk.moments), walk.saved)


def _at_most(most: Capacity, visible: int, block: int, frames: int, branches: int, all_raw: bool) -> Held:
    """What is held by a policy that says what it keeps at most."""
    raw = min(most.frames if all_raw else most.moves, frames)
    passes = (Moment(branches * raw, staged, block, visible) for staged in (0, block))
    stored = Moment(branches * raw + block, block, 0, 0)
    saved = raw, max(0, min(most.frames, frames) - raw)
    return Held(visible + block, raw, 0, frozenset([*passes, stored]), saved)


@dataclass
class _Walk:
    """The bookkeeping of ``RolloutIterator`` and ``RolloutMemory``, of one memory of ``branches`` equal ones."""

    policy: CachePolicy
    block: int
    frames: int
    branches: int
    all_raw: bool
    joint: int
    moments: set[Moment]
    longest: int
    raw: set[int] = field(default_factory=set)
    kept: set[int] = field(default_factory=set)
    shown: set[tuple[int, int]] = field(default_factory=set)
    resting: int = 0
    virtual: int = 0
    saved: tuple[int, int] = (0, 0)

    def run(self, starts: Iterable[int], switches: set[int]) -> None:
        """All blocks, each with its first denoising pass and its commit."""
        for index, start in enumerate(starts):
            step = Step(index, start, self.block)
            event = PromptSwitch(step) if start in switches else None if index else Start(step)
            again = self.policy.on_event(event) if event else ()
            self.raw |= {frame for each in self.policy.virtual(step) for frame in each.frames}
            self._recache(again, step)
            count = min(self.joint, -(-(self.frames - start) // self.block) * self.block)
            self._pass(replace(step, count=count if count != self.block else None), start)
            self.resting = max(self.resting, len(self.raw))
            self.virtual = max(self.virtual, sum(frame < 0 for frame in self.raw))
            bare = sum(content not in self.raw for content, _ in self.shown) + self._parked
            self.saved = max(self.saved, (len(self.raw), bare), key=sum)
            if step.frames.stop < self.frames:  # nothing reads the last block
                self._pass(replace(step, phase=Phase.COMMIT), start)

    def expect_most(self) -> None:
        """Counts as if the policy kept raw all frames that a plan may read, as one that learns from the network may."""
        most = min(self.policy.visible(self.block) + self.block, max(0, self.frames - self.block))
        self.resting = max(self.resting, most)
        self.saved = max(self.saved, (most, 0), key=sum)
        raw = self.branches * most
        self.moments |= {Moment(raw, 0, self.joint, most), Moment(raw, self.block, self.block, most)}

    def _pass(self, step: Step, now: int) -> None:
        entries = set(self.policy.plan(step).entries())
        count, before = len(step.frames), len(self.raw)
        again = entries if self.all_raw else entries - self.shown  # where all are raw, all may be rotated again
        turned = sum(content in self.raw for content, _ in again)
        written = set(step.frames) if step.writes else set[int]()
        self.longest = max(self.longest, count)
        self.shown = {entry for entry in entries if entry[0] not in written}
        self.raw |= written
        self.kept |= written
        stored = len(self.raw)
        wishes = self.policy.on_commit(step) if step.phase is Phase.COMMIT else None
        reached = max(now, step.frames.stop if written else step.start)
        live, moves = self.policy.live(reached, self.block), self.policy.moves(reached, self.block)
        self.raw &= live if self.all_raw else live & (moves | written)
        self.kept &= live
        others = (self.branches - 1) * max(before, len(self.raw))  # some of them have been through the pass
        staged = len(written) + self.branches * self._parked
        self.moments.add(Moment(others + before, staged, count, turned))
        if written:
            self.moments.add(Moment(others + stored, staged, 0, 0))
        if wishes:
            self._recache(wishes, Step(step.index + 1, step.frames.stop, self.block))

    def _recache(self, wishes: Iterable[range | Reencode], step: Step) -> None:
        for again in wishes:
            if isinstance(again, range):
                self._pass(Step(step.index, again.start, self.block, Phase.RECACHE, count=len(again)), step.start)

    @property
    def _parked(self) -> int:
        """Frames that are wanted, in no slot and not raw: those of a plan that comes back to them."""
        return len(self.kept - self.raw - {content for content, _ in self.shown})
