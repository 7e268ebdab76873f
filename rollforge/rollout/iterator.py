"""One rollout in progress: drives the sampler, and can be interrupted after any block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor

from rollforge.devices import sent
from rollforge.errors import UserError, attribute_errors
from rollforge.rollout.abilities import check_recomputes
from rollforge.rollout.block_check import OTHER_SEED
from rollforge.rollout.borders import check_finished, check_noise, check_request, ended_early
from rollforge.rollout.branching import check_frames, check_parts, parts_of
from rollforge.rollout.components import RolloutComponents
from rollforge.rollout.noise_ahead import NoiseAhead
from rollforge.rollout.parts import Parts
from rollforge.rollout.passes import PassRunner
from rollforge.rollout.replay import replay
from rollforge.rollout.steps import Block, given_steps, step_of
from rollforge.rollout.switches import Schedule
from rollforge.samplers.base import Finished, Job, Keep, Pass, Passes, together
from rollforge.spec import EVENTS, Cut, Event, Phase, PromptSwitch, Start, Step
from rollforge.state import State, copied, moved

AHEAD = ("cuda",)
"""Devices next to which the CPU has time to draw the next block's noise."""


class RolloutIterator(Iterator[Block]):
    """One rollout in progress: its memories, and its copies of the components that change from block to block.

    Between two blocks ``state_dict`` returns all that later blocks depend on.
    """

    def __init__(
        self,
        rollout: RolloutComponents,
        schedules: dict[str, Schedule],
        frames: int,
        seed: int,
        samples: tuple[int, ...],
        cuts: tuple[int, ...] = (),
    ) -> None:
        self.noise, self.check, self.spec = rollout.noise, rollout.check, rollout.backbone.spec
        components = rollout.policy, rollout.sampler, rollout.positions, rollout.kv_codec, rollout.combine
        self.passes = PassRunner(
            rollout.backbone, Parts(*components).copy(), schedules, rollout.memory, rollout.encode, rollout.attention,
            rollout.group, rollout.fuse_commit,
        )  # fmt: skip
        self.fuses = rollout.fuse_commit
        self.waiting: Pass | None = None  # a commit that the next block's first pass may take along
        self.built = partial(parts_of, rollout, len(samples))
        self.frames, self.seed, self.samples, self.cuts = frames, seed, samples, cuts
        self.index, self.start = 0, 0  # of the next block
        self.first = 0  # the number of the first block that is made, after those that are given
        self.entered = -1  # the last block whose first pass was prepared
        self.pending: tuple[Step, Tensor] | None = None  # a block that is yielded and not yet committed
        self.attempts: dict[int, list[int]] = {}  # blocks that were made again, and how often for each sample
        self.announced: list[tuple[str, dict[str, Any]]] = []  # events of the next block, and their fields
        self.happened: dict[int, list[tuple[str, dict[str, Any]]]] = {}  # those of earlier blocks, to replay them
        self.saved_under: str | None = None  # the policy that a restored state had, where it is another one
        device, attempts = self.passes.device, lambda step: tuple(self._attempts(step))
        self.ahead = NoiseAhead(self._drawn, self._following, attempts, device) if device.type in AHEAD else None
        self._sampler = self.sampler  # as it was when the last block was finished
        self._before = self.parts, State()  # the components and the network's state before the next block
        self._blocks: Iterator[Block] = iter(())

    @property
    def parts(self) -> Parts:
        """The rollout's copies of the components that change from block to block."""
        return self.passes.parts

    @property
    def policy(self) -> Any:
        """The rollout's copy of the cache policy."""
        return self.parts.policy

    @property
    def sampler(self) -> Any:
        """The rollout's copy of the sampler."""
        return self.parts.sampler

    def __next__(self) -> Block:
        return next(self._blocks)

    def state_dict(self, kv: bool = True) -> State:
        """A copy of the state that later blocks depend on. It can be restored any number of times.

        Without ``kv`` it leaves out what committing the finished latents again restores. Tensors are shared with
        the rollout, which writes into none of them.
        """
        if not kv:
            check_recomputes(self.policy, self.sampler)
        state: State = {"index": self.index, "start": self.start, "attempts": self.attempts, "parts": self.built()}
        state |= self.parts.state_dict() | {"backbone": self.passes.carried}
        state |= {"announced": self.announced, "happened": self.happened, "read": self.passes.read.state_dict()}
        if kv:
            state |= {"pending": self.pending and _saved(*self.pending), **self.passes.state_dict()}
        return copied(state)

    def announce(self, event: type[Event], **fields: Any) -> None:
        """Notifies the policy of an event before the next block: ``Cut``, ``Reset``, or ``Seek`` with its ``frame``."""
        if EVENTS.get(event.__name__) is not event:
            raise UserError(f"{event.__name__} cannot be announced; expected one of {', '.join(EVENTS)}.")
        self.announced.append((event.__name__, fields))

    def begin(self, given: Tensor | None) -> Self:
        """Starts at the first block."""
        self._blocks = chain(self.prefill(given), self._sample())
        self.first = len(list(given_steps(given, self.spec)))
        return self

    def resume(self, state: State, given: Tensor | None, finished: Iterable[Tensor]) -> Self:
        """Continues from ``state``; if it has no memories, after committing the ``finished`` latents again."""
        self.begin(given)
        self.attempts = dict(state["attempts"])
        self.happened = {index: _events(events) for index, events in state.get("happened", {}).items()}
        self.announced = _events(state.get("announced", []))
        if "memories" in state:
            self.passes.read.load_state_dict(state.get("read", {}))
            self.saved_under = self._load(state)
            self._blocks = chain(self._checked(), self.prefill(given, self.start), self._sample())
        else:
            self._blocks = chain(self._replay(state, given, finished), self._sample())
        return self

    def _replay(self, state: State, given: Tensor | None, finished: Iterable[Tensor]) -> Iterator[Block]:
        """Commits the finished latents again. What is announced for the next block stays announced."""
        announced, self.announced = self.announced, []
        yield from replay(self, state, given, finished)
        self.passes.read.load_state_dict(state.get("read", {}))
        self.announced = announced + self.announced

    def _load(self, state: State) -> str | None:
        """Restores a state with its memories. Returns the policy that it was saved under, if it was another one."""
        saved = state["parts"]
        check_parts(saved, self.built())
        self.index, self.start = state["index"], state["start"]
        if pending := state["pending"]:
            latents = pending["latents"].to(self.passes.device)
            self._pend(step_of(self.spec, pending["index"], pending["start"]), latents)
        alike = self.parts.load_state_dict(state, saved, self.passes.device)
        self.passes.load_state_dict(state)
        self.passes.carried = moved(state.get("backbone", {}), self.passes.device)
        return None if alike["policy"] else saved["policy"][0]

    def _checked(self) -> Iterator[Block]:
        """No block; the check of a restored rollout, when its first block is asked for."""
        self.check_frames()
        yield from ()

    def check_frames(self) -> None:
        """Raises ``UserError`` where memories that were saved under another policy lack what this one reads."""
        step = self.pending[0] if self.pending else self._step()
        for memory in self.passes.memories.values() if self.saved_under else ():
            check_frames(self.policy, self.saved_under or "", memory, step)

    def _step(self) -> Step:
        """The block that is made next."""
        return step_of(self.spec, self.index, self.start)

    def _steps(self) -> Iterator[Step]:
        """The blocks to make, as far ahead as the sampler asks."""
        step = self._step()
        while step.start < self.frames:
            yield step
            step = step_of(self.spec, step.index + 1, step.frames.stop)

    def prefill(self, given: Tensor | None, shown: int = 0) -> Iterator[Block]:
        """Lets given frames enter the memories, but those before ``shown``, which have."""
        for step in given_steps(given, self.spec):
            if step.start >= shown and given is not None:
                latents = given[:, step.frames.start : step.frames.stop].to(self.passes.device).float()
                self.passes.make_virtual(step)
                self.passes.keep(step, latents)  # before the passes, after which the policy may have them read again
                branches = together(self.sampler.guidance_branches)
                self.passes.run(Pass(step, latents, 0.0, branches, unread=True), self.start)
                self.index, self.start = step.index + 1, step.frames.stop
                yield Block(step.index, step.start, latents)

    def replay_block(self, latents: Tensor) -> None:
        """Takes a block that was finished before an interruption as if it had been made now."""
        self._commit()
        self.announced = self.happened.get(self.index, [])
        self._repeat_commit()
        self._enter()
        self._finish(self._step(), latents.to(self.passes.device))

    def _commit(self) -> None:
        """The commit of a block that was yielded before an interruption."""
        if self.pending:
            for request in self.sampler.commit(*self.pending, self._draw):
                self._run(request)

    def _repeat_commit(self) -> None:
        """Runs a waiting commit together with the next block's first pass, where it ran so before an interruption."""
        if self.waiting is None:
            return
        passes = deepcopy(self.sampler).run(Job(self._steps(), self._draw, self.first))
        request = self._next(passes, None)
        if isinstance(request, Pass):
            self._run_fused(request)
        passes.close()

    def _sample(self) -> Iterator[Block]:
        """Generates blocks. An invalid one may be generated again; nothing of it has been committed."""
        self._commit()
        self._note_sampler()
        while self.start < self.frames:
            with attribute_errors("sampler", self.sampler, f"at block {self.index}"):
                passes = self.sampler.run(Job(self._steps(), self._draw, self.first))
            reply: Any = None
            while (request := self._next(passes, reply)) is not None:
                rows, device = len(self.samples), self.passes.device
                check_request(self.sampler, request, self._step(), rows, self.spec, device)
                if not isinstance(request, Finished):
                    reply = self._run(request)
                    continue
                check_finished(self.sampler, request, self._step(), self.frames)
                self._enter()
                if not (reply := self._accepts(request)):
                    self._drop(passes, request.step)
                    break
                self._finish(request.step, request.latents)
                yield Block(request.step.index, request.step.start, request.latents)
            else:
                if self.start < self.frames:
                    raise ended_early(self.sampler, self._step(), self.frames)

    def _next(self, passes: Passes, reply: Any) -> Pass | Keep | Finished | None:
        """What the sampler requests next; None when it is through."""
        with attribute_errors("sampler", self.sampler, f"at block {self.index}"):
            try:
                return next(passes) if reply is None else passes.send(reply)
            except StopIteration:
                return None

    def _run(self, request: Pass | Keep) -> Any:
        """The flow of a pass that the sampler requests; a tuple of them where it requests several branches."""
        if isinstance(request, Pass) and request.step.phase is not Phase.COMMIT:
            if (reply := self._run_fused(request)) is not None:
                return reply
            self._enter()
            return self.passes.run(request, self.start)
        if request.step.frames.stop >= self.frames:  # nothing will read the last block
            return None if isinstance(request, Keep) else request.answer([request.latents] * len(request.branches))
        self._settle()
        if isinstance(request, Pass) and request.unread and self.fuses:
            self.waiting = request
            return request.answer([request.latents] * len(request.branches))
        flow = None
        if isinstance(request, Pass):
            flow = self.passes.run(request, self.start)
        else:
            self.passes.settle(request)
        self.pending = None
        return flow

    def _run_fused(self, request: Pass) -> Any:
        """Runs a waiting commit in one pass with ``request``. None where none waits, or each needs its own pass."""
        if (commit := self.waiting) is None or not self._follows(commit, request):
            return None
        if (reply := self.passes.run_after(commit, request, self.start)) is not None:
            self.waiting = self.pending = None
            self._enter()
        return reply

    def _follows(self, commit: Pass, request: Pass) -> bool:
        """Whether a pass can be fused with the commit before it: nothing happens in between, and it runs alike."""
        step, alike = request.step, request.branches == commit.branches
        plain = not (request.extra or commit.extra or request.plan or commit.plan or step.keeps or request.gradient)
        next_one = step.phase is Phase.DENOISE and step.frames == self._step().frames
        return next_one and step.start == commit.step.frames.stop and alike and plain and not self._events()

    def _settle(self) -> None:
        """Runs a commit that waits, by itself."""
        if self.waiting is not None:
            commit, self.waiting = self.waiting, None
            self.passes.run(commit, self.start)
            self.pending = None

    def _enter(self) -> None:
        """Prepares the next block before its first pass, once the block before it is committed."""
        if self.entered == self.index:
            return
        self._settle()
        events = self._events()
        self.entered, step = self.index, self._step()
        self.passes.prompts.reach(step.start)
        self.passes.notify([event(step, self.passes.prompts.coming, **fields) for event, fields in events], step)
        if self.announced:
            self.happened[self.index] = self.announced
        self.announced = []
        if self._retries:
            self._before = replace(self.parts, sampler=self._sampler).copy(), self.passes.carried

    def _events(self) -> list[tuple[type[Event], dict[str, Any]]]:
        """What the policy is notified of before the next block."""
        start, prompts = self.start, self.passes.prompts
        cut = any(prompts.passed < frame <= start for frame in self.cuts)
        events: list[tuple[type[Event], dict[str, Any]]] = [(Start, {})] if self.index == self.first else []
        events += [(EVENTS[name], fields) for name, fields in self.announced]
        events += [(Cut, {})] if cut else []
        return events + ([(PromptSwitch, {})] if start and prompts.switches(start) else [])

    def _accepts(self, made: Finished) -> bool:
        """Whether a block passes the check. If not, counts one more attempt for the samples that do not."""
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
        """A block is finished: a rollout can resume from a snapshot taken here."""
        self.passes.keep(step, latents)
        self.index, self.start = step.index + 1, step.frames.stop
        self._pend(step, latents)
        self._note_sampler()

    def _pend(self, step: Step, latents: Tensor) -> None:
        """A block is yielded and waits for its commit."""
        self.pending, self.entered = (step, latents), step.index
        self.passes.prompts.reach(step.start)

    @property
    def _retries(self) -> bool:
        return self.check is not None and self.check.action == "retry"

    def _note_sampler(self) -> None:
        if self._retries:
            self._sampler = deepcopy(self.sampler)

    def _drop(self, passes: Passes, step: Step) -> None:
        """Takes back what the components have learned from a refused block."""
        with attribute_errors("sampler", self.sampler, f"when block {step.index} was refused"):
            passes.close()
            self.passes.restore(*self._before)
            self.passes.drop_estimates()
            self.sampler.dropped(step)

    def _draw(self, step: Step, level: int) -> Tensor:
        """The noise of a block, on the device."""
        return sent(self._drawn(step, level), self.passes.device) if self.ahead is None else self.ahead(step, level)

    def _following(self, step: Step) -> Step | None:
        """The block after one."""
        return step_of(self.spec, step.index + 1, step.frames.stop) if step.frames.stop < self.frames else None

    def _drawn(self, step: Step, level: int) -> Tensor:
        """The noise of a block for every sample: a row that was refused has another seed than the others."""
        attempts, shape, when = self._attempts(step), self.spec.latent_shape, f"at block {step.index}, level {level}"
        rows: list[tuple[int, tuple[int, ...]]] = [(self.seed + OTHER_SEED * attempts[0], self.samples)]
        if len(set(attempts)) > 1:
            seeds = [self.seed + OTHER_SEED * attempt for attempt in attempts]
            rows = [(seed, (sample,)) for seed, sample in zip(seeds, self.samples, strict=True)]
        drawn = []
        for seed, samples in rows:
            with attribute_errors("noise prior", self.noise, when):
                noise = self.noise.batch(seed, samples, step.frames, level, shape)
            drawn.append(
                check_noise(self.noise, noise, when, (len(samples), len(step.frames), *shape), self.passes.device)
            )
        return torch.cat(drawn) if len(drawn) > 1 else drawn[0]


def _saved(step: Step, latents: Tensor) -> State:
    return {"index": step.index, "start": step.start, "latents": latents}


def _events(saved: Sequence[Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, dict(fields)) for name, fields in saved]
