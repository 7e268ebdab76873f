"""One rollout in progress: drives the sampler, the policy and the memories, and can be cut off after any block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from copy import copy, deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.devices import sent
from rollforge.errors import UserError, attribute_errors
from rollforge.memory import RolloutMemory
from rollforge.rollout.block_check import OTHER_SEED
from rollforge.rollout.branching import REPLAY, carry_over, check_frames, check_parts, parts_of
from rollforge.samplers.base import Finished, Job, Pass, Passes
from rollforge.spec import Phase, PromptSwitch, ReadPlan, Step
from rollforge.state import State, copied, moved

if TYPE_CHECKING:
    from rollforge.rollout.rollout import Rollout

Schedule = Mapping[int, Condition]
"""The frame from which on each condition is in force; the first key is 0."""


@dataclass(frozen=True)
class Block:
    """A finished block: its number, its first frame and its latents ``[B, F, C, H, W]``."""

    index: int
    start: int
    latents: Tensor


class RolloutIterator(Iterator[Block]):
    """One rollout in progress: its memories, its copy of the policy, and what a prompt switch reads again.

    Between two blocks ``state_dict`` tells all that later blocks depend on.
    """

    def __init__(
        self, rollout: Rollout, schedules: dict[str, Schedule], frames: int, seed: int, samples: tuple[int, ...]
    ) -> None:
        weight = next(rollout.backbone.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.backbone, self.noise, self.check = rollout.backbone, rollout.noise, rollout.check
        self.spec = rollout.backbone.spec
        self.policy, self.sampler = deepcopy(rollout.policy), copy(rollout.sampler)
        self.schedules = {
            branch: {start: kept.to(self.device, self.dtype) for start, kept in schedule.items()}
            for branch, schedule in schedules.items()
        }
        self.switches = self._switches_after(0)
        self.parts = partial(parts_of, rollout, len(samples))
        with attribute_errors("cache policy", self.policy, "telling how many frames it shows"):
            visible = self.policy.visible(self.spec.block)
        self.memories = {
            branch: RolloutMemory(self.spec, visible, rollout.rope, rollout.kv_codec) for branch in schedules
        }
        self.finished: dict[int, Tensor] = {}  # latents of live frames, which a prompt switch may read again
        self.frames, self.seed, self.samples = frames, seed, samples
        self.index, self.start = 0, 0  # of the next block
        self.first = 0  # the number of the first block that is made, after those that are given
        self.pending: tuple[Step, Tensor] | None = None  # a block that is shown and not yet committed
        self.attempts: dict[int, list[int]] = {}  # blocks that were made again, and how often for each sample
        self._blocks: Iterator[Block] = iter(())

    def __next__(self) -> Block:
        return next(self._blocks)

    def state_dict(self, kv: bool = True) -> State:
        """A copy of what the blocks to come depend on. The rollout may go on and be returned to any number of times.

        Without ``kv`` it leaves out what committing the finished latents once more brings back. Tensors are shared with
        the rollout, which writes into none of them.
        """
        state: State = {"index": self.index, "start": self.start, "attempts": self.attempts}
        if kv:
            with attribute_errors("cache policy", self.policy, "telling its state"):
                state["policy"] = self.policy.state_dict()
            with attribute_errors("sampler", self.sampler, "telling its state"):
                state["sampler"] = self.sampler.state_dict()
            state["parts"] = self.parts()
            pending = self.pending and {"index": self.pending[0].index, "start": self.pending[0].start}
            state |= {
                "pending": pending and pending | {"latents": self.pending[1]},  # type: ignore[index] # it is there
                "finished": self.finished,
                "memories": {branch: memory.state_dict() for branch, memory in self.memories.items()},
            }
        return copied(state)

    def begin(self, given: Tensor | None) -> Self:
        """From the first block on."""
        self._blocks = chain(self._prefill(given), self._sample())
        self.first = _given_blocks(given, self.spec.block)
        return self

    def resume(self, state: State, given: Tensor | None, finished: Iterable[Tensor]) -> Self:
        """From where ``state`` was told; without its memories, after committing the ``finished`` latents again."""
        self.attempts = dict(state["attempts"])
        self.first = _given_blocks(given, self.spec.block)
        if "memories" in state:
            other = self._load(state)
            self._blocks = chain(self._fitting(other), self._prefill(given, self.start), self._sample())
        else:
            self._blocks = chain(self._replay(given, finished, state["start"]), self._sample())
        return self

    def _load(self, state: State) -> str | None:
        """Takes up a state with its memories. Returns the policy that it was saved under, if it was another one."""
        saved = state["parts"]
        check_parts(saved, self.parts())
        self.index, self.start = state["index"], state["start"]
        self.finished = moved(state["finished"], self.device)
        if pending := state["pending"]:
            step = Step(pending["index"], pending["start"], self.spec.block)
            self.pending = step, pending["latents"].to(self.device)
            self.switches = self._switches_after(step.start)
        carry_over(self.sampler, saved["sampler"], moved(state["sampler"], self.device))
        alike = carry_over(self.policy, saved["policy"], state["policy"])
        for branch, memory in self.memories.items():
            if branch not in state["memories"]:
                raise UserError(
                    f"The state was saved without guidance, so it has no memory of the {branch} prompt; use the "
                    f"sampler that it was saved under, or {REPLAY}."
                )
            memory.load_state_dict(state["memories"][branch], self.device)
        return None if alike else saved["policy"][0]

    def _fitting(self, other: str | None) -> Iterator[Block]:
        """No block; raises ``UserError`` where memories saved under the policy ``other`` lack what this one reads."""
        step = self.pending[0] if self.pending else Step(self.index, self.start, self.spec.block)
        for memory in self.memories.values() if other else ():
            check_frames(self.policy, other or "", memory, step)
        yield from ()

    def _switches_after(self, frame: int) -> list[int]:
        """The prompt switches to come once the block at ``frame`` is made."""
        return [start for start in self.schedules["prompt"] if start > frame]

    def _replay(self, given: Tensor | None, finished: Iterable[Tensor], start: int) -> Iterator[Block]:
        """Commits what is finished, block by block, and shows only given blocks that have not been shown."""
        blocks = iter(finished)
        for block in self._prefill(given):
            if block.start >= start:
                yield block
            elif next(blocks, None) is None:
                break
        for latents in blocks:
            for step in self._steps(once=True):
                self._finish(step, latents.to(self.device))
                self._commit()
        if self.start < start:
            raise UserError(
                f"The kept latents end at frame {self.start}, the snapshot at frame {start}; take an older snapshot."
            )

    def _sample(self) -> Iterator[Block]:
        """Makes blocks. One that is not sound may be made again; nothing of it has been committed."""
        self._commit()
        while self.start < self.frames:
            with attribute_errors("sampler", self.sampler, f"at block {self.index}"):
                passes = self.sampler.run(Job(self._steps(), self._draw, self.first))
            answer: Tensor | None = None
            while (request := self._next(passes, answer)) is not None:
                answer = None
                if isinstance(request, Pass):
                    answer = self._forward(request)
                    if request.step.phase is Phase.COMMIT:
                        self.pending = None
                elif self._sound(request):
                    self._finish(request.step, request.latents)
                    yield Block(request.step.index, request.step.start, request.latents)
                else:
                    break
            else:
                return

    def _next(self, passes: Passes, answer: Tensor | None) -> Pass | Finished | None:
        """What the sampler wants next; nothing when it is through."""
        with attribute_errors("sampler", self.sampler, f"at block {self.index}"):
            try:
                return passes.send(answer) if answer is not None else next(passes)
            except StopIteration:
                return None

    def _sound(self, made: Finished) -> bool:
        if self.check is None:
            return True
        step, attempts = made.step, self._attempts(made.step)
        bad = self.check.bad_rows(step, made.latents, attempts, step.start / self.spec.fps)
        if bad:
            self.attempts[step.index] = [count + (row in bad) for row, count in enumerate(attempts)]
        return not bad

    def _attempts(self, step: Step) -> list[int]:
        """How often the block at ``step`` was made again for each sample."""
        return self.attempts.get(step.index, [0] * len(self.samples))

    def _finish(self, step: Step, latents: Tensor) -> None:
        """A block is done: from here on a snapshot can go on."""
        self._keep(step, latents)
        self.pending, self.index, self.start = (step, latents), step.index + 1, step.frames.stop

    def _commit(self) -> None:
        """The commit of a block that was shown when the rollout was cut off."""
        if self.pending:
            step, latents = self.pending
            for request in self.sampler.commit(step, latents, self._draw):
                self._forward(request)
            self.pending = None

    def _steps(self, once: bool = False) -> Iterator[Step]:
        """The blocks to make. Prompt switches are dealt with as their block is asked for, before its first pass."""
        index, start = self.index, self.start
        while start < self.frames:
            step = Step(index, start, self.spec.block)
            if self.switches and self.switches[0] <= start:
                self.switches = [switch for switch in self.switches if switch > start]
                if start:
                    self._switch(step)
            yield step
            if once:
                return
            index, start = index + 1, start + self.spec.block

    def _switch(self, step: Step) -> None:
        """Tells the policy of a new prompt and reads the frames it names again, oldest first."""
        with self._asking("about a new prompt", step):
            again = list(self.policy.on_event(PromptSwitch(step)))
        for frames in again:
            if missing := [frame for frame in frames if frame not in self.finished]:
                raise UserError(
                    f"The cache policy {type(self.policy).__name__} wants to read frame {missing[0]} again at block "
                    f"{step.index}, which is not live; its live() must name it."
                )
            latents = torch.cat([self.finished[frame] for frame in frames], dim=1)
            past = Step(step.index, frames.start, self.spec.block, Phase.RECACHE, count=len(frames))
            for branch in self.sampler.guidance_branches:
                self._forward(Pass(past, latents, 0.0, branch), step.start)

    @torch.no_grad()
    def _forward(self, request: Pass, now: int | None = None) -> Tensor:
        """Runs one pass. ``now`` is the frame that the rollout has come to, where it is not the pass's own."""
        step, latents = request.step, request.latents
        if step.phase is Phase.COMMIT and step.frames.stop >= self.frames:
            return latents  # nothing will read the last block
        now = step.start if now is None else now
        memory, plan = self.memories[request.guidance_branch], request.plan or self._plan(step)
        self._begin(memory, step, plan)
        timesteps = self._timesteps(request)
        with attribute_errors("backbone", self.backbone, f"at block {step.index} ({step.phase.value})"):
            flow: Tensor = self.backbone(
                latents.to(self.dtype), timesteps, self._condition(request.guidance_branch, now), memory
            )
        final = step.phase in (Phase.PREFILL, Phase.COMMIT)
        reached = max(now, step.frames.stop if step.phase.writes else step.start)
        with self._asking("which frames live", step):
            if (
                final and request.guidance_branch == self.sampler.guidance_branches[-1]
            ):  # every branch has seen the same plan
                self.policy.on_commit(step)
            live, revisited = self.policy.live(reached, step.block), self.policy.revisited(reached, step.block)
        memory.end(live, revisited)
        return flow.to(latents.dtype)

    def _timesteps(self, request: Pass) -> Tensor:
        """The noise level of each frame, float32 ``[B, F]``, on the device."""
        shape, level = request.latents.shape[:2], request.timestep
        if isinstance(level, Tensor):
            return sent(level.float(), self.device).expand(shape)
        return torch.full(shape, float(level), device=self.device)

    def _plan(self, step: Step) -> ReadPlan:
        with self._asking("for its plan", step):
            plan = self.policy.plan(step)
        if not isinstance(plan, ReadPlan):
            raise UserError(
                f"The cache policy {type(self.policy).__name__} answered {plan!r:.60} for its plan of block "
                f"{step.index}; expected a ReadPlan."
            )
        return plan

    def _begin(self, memory: RolloutMemory, step: Step, plan: ReadPlan) -> None:
        try:
            memory.begin(step, plan)
        except ValueError as error:
            raise UserError(
                f"The cache policy {type(self.policy).__name__} cannot be followed at block {step.index} "
                f"({step.phase.value}, level {step.level}): {error}"
            ) from error

    def _asking(self, what: str, step: Step) -> AbstractContextManager[None]:
        when = f"asked {what} at block {step.index} ({step.phase.value}, level {step.level})"
        return attribute_errors("cache policy", self.policy, when)

    def _condition(self, branch: str, frame: int) -> Condition:
        """The condition in force at a frame."""
        schedule = self.schedules[branch]
        return schedule[max(start for start in schedule if start <= frame)]

    def _prefill(self, given: Tensor | None, shown: int = 0) -> Iterator[Block]:
        """Lets given frames enter the memories, but those before ``shown``, which have."""
        for step in _given_steps(0 if given is None else given.shape[1], self.spec.block):
            if step.start >= shown and given is not None:
                latents = given[:, step.frames.start : step.frames.stop].to(self.device, torch.float32)
                for branch in self.sampler.guidance_branches:
                    self._forward(Pass(step, latents, 0.0, branch))
                self._keep(step, latents)
                self.index, self.start = step.index + 1, step.frames.stop
                yield Block(step.index, step.start, latents)

    def _keep(self, step: Step, latents: Tensor) -> None:
        self.finished |= dict(zip(step.frames, latents.split(1, dim=1), strict=True))
        with self._asking("which frames live", step):
            live = self.policy.live(step.frames.stop, step.block)
        self.finished = {frame: kept for frame, kept in self.finished.items() if frame in live}

    def _draw(self, step: Step, level: int) -> Tensor:
        seeds = [self.seed + OTHER_SEED * attempt for attempt in self._attempts(step)]
        shape = self.spec.latent_shape
        with attribute_errors("noise prior", self.noise, f"at block {step.index}, level {level}"):
            if len(set(seeds)) == 1:
                return sent(self.noise.batch(seeds[0], self.samples, step.frames, level, shape), self.device)
            rows = zip(seeds, self.samples, strict=True)  # some samples are made again, the others stay as they are
            drawn = [self.noise.batch(seed, (sample,), step.frames, level, shape) for seed, sample in rows]
        return sent(torch.cat(drawn), self.device)


def _given_blocks(given: Tensor | None, block: int) -> int:
    """How many blocks given latents fill."""
    return 0 if given is None else -(-given.shape[1] // block)


def _given_steps(frames: int, block: int) -> Iterator[Step]:
    """Given frames as passes: what fills no whole block first, then whole blocks."""
    rest, start = frames % block, 0
    for index, count in enumerate([*([rest] if rest else []), *[block] * (frames // block)]):
        yield Step(index, start, block, Phase.PREFILL, count=None if count == block else count)
        start += count
