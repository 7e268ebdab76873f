"""Forward passes: the policy plans what each one reads, the memory provides it, and the network attends to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rollforge.backbones.base import Backbone, Condition
from rollforge.borders import WrongAnswer, check_tensor
from rollforge.devices import sent
from rollforge.errors import UserError, attribute_errors, attributed
from rollforge.memory import Attention, CachedMemory, MakeMemory, Memory
from rollforge.memory.base import LevelFeatures
from rollforge.memory.joined import JoinedMemory
from rollforge.memory.observing import Watch
from rollforge.memory.paired import PairedMemory, both
from rollforge.parallel import ContextGroup, ShareMemory, TokenShares
from rollforge.policies.base import CachePolicy
from rollforge.prediction import is_compiled, is_sharded, levels_of, predict, takes_extra, to_flow
from rollforge.rollout.abilities import check_shown
from rollforge.rollout.borders import frame_count, frame_numbers, read_plan, virtual_frames, wishes
from rollforge.rollout.branching import REPLAY
from rollforge.rollout.parts import Parts
from rollforge.rollout.read_counts import ReadCounts
from rollforge.rollout.switches import Prompts, Schedule
from rollforge.samplers.base import Keep, Pass, together
from rollforge.spec import Event, ModelSpec, Phase, ReadPlan, Reencode, Seen, Step
from rollforge.state import State, moved

Encode = Callable[[int], Tensor]
MOST_LEVELS = 256
"""Noise levels whose features are kept: those of a sampler, unless it draws them."""


class PassRunner:
    """Runs the passes of one rollout, and keeps what they leave: the memories, and latents that may be read again.

    Args:
        backbone: the network.
        parts: the rollout's own components.
        schedules: the conditions of each guidance branch.
        memory: makes the memory of a branch.
        encode: the latent ``[B, 1, C, H, W]`` of a finished frame's pixels, encoded as the first of a video.
        attention: the kernel that the memories attend with. Raises ``UserError`` where it cannot run.
        group: the processes that make the video together.
        pairs: whether a commit can run in one pass with the next block's first.
    """

    def __init__(
        self,
        backbone: Backbone,
        parts: Parts,
        schedules: Mapping[str, Schedule],
        memory: MakeMemory,
        encode: Encode | None = None,
        attention: Attention | None = None,
        group: ContextGroup | None = None,
        pairs: bool = False,
    ) -> None:
        weight = next(backbone.parameters(), torch.zeros(0))
        self.device, self.dtype = weight.device, weight.dtype
        self.backbone, self.spec, self.parts = backbone, backbone.spec, parts
        self.prompts = Prompts(schedules, self.device, self.dtype)
        with attribute_errors("cache policy", parts.policy, "reporting how many frames it shows"):
            visible = frame_count(parts.policy, parts.policy.visible(self.spec.block), "visible")
        self.takes_extra, self.group = takes_extra(backbone), group
        if group is not None:
            memory = partial(ShareMemory, group)
        elif pairs:
            memory = PairedMemory
        self._sharded = is_sharded(backbone)
        if attention is not None:
            with attribute_errors("attention", attention, "checking whether it runs here"):
                attention.check(self.device, _computing(self.device, self.dtype), self.spec.head_dim)
        arguments = self.spec, visible, parts.positions, parts.kv_codec, parts.combine
        with attribute_errors("memory", memory, "starting a rollout"):
            self.memories = {branch: memory(*arguments) for branch in schedules}
        for made in self.memories.values():
            if not isinstance(made, CachedMemory):
                raise WrongAnswer("memory", memory, made, "for a rollout", "an object of class CachedMemory")
            made.device = self.device
            if attention is not None:
                made.kernel = attention
        self.encode, self.read = encode, ReadCounts()
        next(iter(self.memories.values())).watch = _watch(parts.policy, self.spec)  # all branches run the same passes
        self.finished: dict[int, Tensor] = {}  # latents of live frames, which a later pass may read again
        self.estimated: set[int] = set()  # frames in the memories that are not final
        self.left: set[int] = set()  # those of them that the last denoising pass has left
        self.levels: dict[tuple[float, ...], LevelFeatures] = {}  # what the network has computed from noise levels
        self._together: tuple[Any, Condition | None] = (None, None)  # of which branches and texts, and joined
        self._joined_memories: dict[tuple[str, ...], JoinedMemory] = {}
        self.carried: State = {}  # what the network keeps of this rollout outside of the memories

    def run(self, request: Pass, frontier: int) -> Tensor | tuple[Tensor, ...]:
        """The predicted flow of one pass, like its latents; of a pass of several guidance branches that of each.

        Args:
            request: the pass.
            frontier: the first frame that is not finished.
        """
        with torch.set_grad_enabled(request.gradient and torch.is_grad_enabled()):
            return self._run(request, frontier)

    def _run(self, request: Pass, frontier: int) -> Tensor | tuple[Tensor, ...]:
        step, branches = request.step, request.branches
        now = frontier if step.phase is Phase.RECACHE else step.start
        plan = (request.plan or self._plan(step)).of_depth(self.spec.layers)
        self.read.count(step, plan, frontier)
        conditions = {branch: self.prompts.at(branch, now) for branch in branches}
        joined = self._joined(request, conditions)
        for memory in (self.memories[branch] for branch in branches):
            memory.latents, memory.unread = self.finished, request.unread and not self._sharded
            with self._following(step, memory):
                memory.begin(step, plan)
        flows = self._apart(request, conditions) if joined is None else self._as_batch(request, *joined)
        if (watch := self.memories[branches[0]].watch) is not None:
            self._show(step, watch)
        for branch in branches:
            self._close(step, branch, frontier)
        return request.answer([flow.to(request.latents.dtype) for flow in flows])

    @torch.no_grad()
    def run_after(self, commit: Pass, request: Pass, frontier: int) -> Tensor | tuple[Tensor, ...] | None:
        """Runs the commit of a block and the first pass of the next one as one pass. Returns what ``run`` returns.

        None, and nothing is done, where the two need passes of their own.
        """
        first, second = commit.step, request.step
        plans = [self._plan(step).of_depth(self.spec.layers) for step in (first, second)]
        memories = [each for name in request.branches if isinstance(each := self.memories[name], PairedMemory)]
        with self._following(second, memories[0]):
            if not all(memory.pairs(first, plans[0], second, plans[1]) for memory in memories):
                return None
        live = self._live("live", first.frames.stop)
        for memory in memories:
            memory.latents, memory.unread = self.finished, False
            with self._following(second, memory):
                memory.begin_pair(first, plans[0], second, plans[1], live)
        for step, plan in zip((first, second), plans, strict=True):
            self.read.count(step, plan, frontier)
        made, count = self._paired(commit, request), len(first.frames)
        for step in (first, second):
            for branch in request.branches:
                self._close(step, branch, frontier)
        return request.answer([flow[:, count:].to(request.latents.dtype) for flow in made])

    def _paired(self, commit: Pass, request: Pass) -> tuple[Tensor, ...]:
        """The flow of both blocks in each guidance branch."""
        timesteps = torch.cat([self._timesteps(each) for each in (commit, request)], 1)
        latents = torch.cat([commit.latents, request.latents], 1)
        levels = [each.timestep for each in (commit, request) for _ in each.step.frames]
        step, branch = both(commit.step, request.step), request.guidance_branch
        paired = _Paired(step, latents, timesteps, branch, levels=tuple(levels))
        conditions = {branch: self.prompts.at(branch, request.step.start) for branch in request.branches}
        joined = self._joined(paired, conditions)
        return self._apart(paired, conditions) if joined is None else self._as_batch(paired, *joined)

    def settle(self, request: Keep) -> None:
        """Commits a block without a pass, with the keys and values of its last pass."""
        step = replace(request.step, phase=Phase.COMMIT)
        for branch in request.branches:
            if missing := self.memories[branch].lacks(ReadPlan((), 0), frozenset(step.frames)):
                raise UserError(
                    f"The sampler {type(self.parts.sampler).__name__} keeps what the last pass of block {step.index} "
                    f"has left, and frame {min(missing)} of it is not in the memory; resume with the sampler that the "
                    "state was saved under."
                )
            self._close(step, branch, step.start)

    def restore(self, parts: Parts, carried: State) -> None:
        """Continues with copies of these components, and with this state of the network."""
        self.parts, self.carried = parts.copy(), carried
        for memory in self.memories.values():
            memory.positions, memory.kv_codec = self.parts.positions, self.parts.kv_codec
            memory.combine = self.parts.combine

    def notify(self, events: Iterable[Event], step: Step) -> None:
        """Notifies the policy of events before the block at ``step``, and prepares what it requests.

        Virtual frames are made first, then the frames that it names are read again, oldest first.
        """
        again: list[range | Reencode] = []
        for event in events:
            with self.asking(f"about a {type(event).__name__}", step):
                again += wishes(self.parts.policy, self.parts.policy.on_event(event), "on_event")
        self.make_virtual(step)
        self._recache(again, step)

    @torch.no_grad()
    def make_virtual(self, step: Step) -> None:
        """Makes the virtual frames that the policy names for the block at ``step``."""
        with self.asking("for virtual frames", step):
            asked = self.parts.policy.virtual(replace(step, phase=Phase.DENOISE))
        virtual = virtual_frames(self.parts.policy, asked)
        for memory in self.memories.values() if virtual else ():
            with self._following(step, memory):
                memory.make(step.index, virtual)

    def keep(self, step: Step, latents: Tensor) -> None:
        """Keeps the latents of a finished block as long as its frames are live. Estimates of others are dropped.

        What its own passes read, and the keys and values that they have left, are kept until it is committed.
        """
        self.drop_estimates(but=self.left & {*step.frames})
        policy = self.parts.policy
        if "latents" in policy.sees:
            with self.asking("to observe a block", step):
                shown = latents if "latents" in policy.whole else latents.mean((3, 4))
                policy.observe(step, None, Seen(latents=shown))
        self.finished |= dict(zip(step.frames, latents.split(1, dim=1), strict=True))
        with self.asking("which frames live", step):
            self._keep_latents(self._live("live", step.frames.stop) | self._live("live", step.start))

    def drop_estimates(self, but: Collection[int] = ()) -> None:
        """Drops keys and values of frames that are not final, ``but`` for some."""
        for memory in self.memories.values():
            memory.forget(self.estimated - {*but})
        self.estimated &= {*but}

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that the memories keep between passes."""
        return sum(memory.nbytes for memory in (*self.memories.values(), *self._joined_memories.values()))

    def state_dict(self) -> State:
        """The memories, and what may be read again."""
        memories = {branch: memory.state_dict() for branch, memory in self.memories.items()}
        return {"finished": self.finished, "memories": memories}

    def load_state_dict(self, state: State) -> None:
        """Restores what ``state_dict`` returned."""
        self.finished = moved(state["finished"], self.device)
        for branch, memory in self.memories.items():
            if branch not in state["memories"]:
                raise UserError(
                    f"The state was saved without guidance, so it has no memory of the {branch} prompt; use the "
                    f"sampler that it was saved under, or {REPLAY}."
                )
            with attribute_errors("memory", memory, "restoring its state"):
                memory.load_state_dict(state["memories"][branch], self.device)

    def asking(self, what: str, step: Step) -> AbstractContextManager[None]:
        """Around a question to the policy: an exception names it, and what it was asked."""
        when = f"asked {what} at block {step.index} ({step.phase.value}, level {step.level})"
        return attribute_errors("cache policy", self.parts.policy, when)

    def _show(self, step: Step, watch: Watch) -> None:
        """Passes on what the policy observes of a pass."""
        check_shown(self.parts.policy, self.backbone, watch.lacking)
        with self.asking("to observe a pass", step):
            for layer, seen in watch.take().items():
                self.parts.policy.observe(step, layer, seen)

    def _recache(self, again: Iterable[range | Reencode], step: Step) -> None:
        """Reads finished frames again, under the prompt of the block at ``step``, or encodes them again."""
        for wish in again:
            frames = range(wish.frame, wish.frame + 1) if isinstance(wish, Reencode) else wish
            if (missing := next((frame for frame in frames if frame not in self.finished), None)) is not None:
                raise UserError(
                    f"The cache policy {type(self.parts.policy).__name__} requests to read frame {missing} again at "
                    f"block {step.index}, which is not live; its live() must name it."
                )
            if isinstance(wish, Reencode):
                assert self.encode is not None  # checked when the rollout began
                first = self.finished[wish.frame]
                self.finished[wish.frame] = self.encode(wish.frame).to(first).view_as(first)
                continue
            latents = torch.cat([self.finished[frame] for frame in frames], dim=1)
            past = Step(step.index, frames.start, self.spec.block, Phase.RECACHE, count=len(frames))
            self.run(Pass(past, latents, 0.0, together(self.parts.sampler.guidance_branches), unread=True), step.start)

    def _apart(self, request: Pass, conditions: Mapping[str, Condition]) -> tuple[Tensor, ...]:
        """The flow of each guidance branch, one after another."""
        return tuple(self._flow(request, conditions[branch], self.memories[branch]) for branch in request.branches)

    def _as_batch(self, request: Pass, condition: Condition, memory: JoinedMemory) -> tuple[Tensor, ...]:
        """The flow of each guidance branch, all in one batch."""
        memory.begin()
        count, timestep = len(request.branches), request.timestep
        if isinstance(timestep, Tensor):
            timestep = timestep.expand(request.latents.shape[:2]).repeat(count, 1)
        rows = request.latents.repeat(count, 1, 1, 1, 1)
        return self._flow(replace(request, latents=rows, timestep=timestep), condition, memory).chunk(count)

    def _joined(self, request: Pass, conditions: Mapping[str, Condition]) -> tuple[Condition, JoinedMemory] | None:
        """The conditions and the memories of several branches as one, if the network can run these as one batch."""
        branches = request.branches
        if len(branches) == 1 or request.extra or torch.is_grad_enabled():
            return None
        which = branches, tuple(each.id for each in conditions.values())
        if which != self._together[0]:
            with attribute_errors("backbone", self.backbone, "joining the conditions of guidance branches"):
                self._together = which, self.backbone.join([*conditions.values()])
        if (condition := self._together[1]) is None:
            return None
        if branches not in self._joined_memories:
            self._joined_memories[branches] = JoinedMemory([self.memories[branch] for branch in branches])
        return condition, self._joined_memories[branches]

    def _flow(self, request: Pass, condition: Condition, memory: CachedMemory | JoinedMemory) -> Tensor:
        """The flow that the network predicts under this condition."""
        step, timesteps = request.step, self._timesteps(request)
        condition = condition.of_frames(step.frames)
        when = f"at block {step.index} ({step.phase.value})"
        with attribute_errors("backbone", self.backbone, when):
            if is_compiled(self.backbone) and not self._sharded:  # whose graphs must not depend on which text it is
                memory.set_text(condition.id, partial(self.backbone.text_keys, condition))
            memory.levels = self._level(request)
            made = self._predicted(request, timesteps, condition, memory)
            self.carried = self.backbone.rollout_state()
            if is_compiled(self.backbone):  # a CUDA graph overwrites what it returned when it runs again
                made = made.clone()
        check_tensor("backbone", self.backbone, made, when, request.latents.shape, request.latents.device)
        return to_flow(self.spec, made, request.latents, timesteps)

    def _predicted(
        self, request: Pass, timesteps: Tensor, condition: Condition, memory: CachedMemory | JoinedMemory
    ) -> Tensor:
        """What the network predicts. With checkpointing it runs again in the backward pass, and reads the same."""
        latents, carried = request.latents.to(self.dtype), self.carried
        extra = {"extra": request.extra} if self.takes_extra else {}

        def forward(memory: Memory) -> Tensor:
            self.backbone.load_rollout_state(carried)
            if self.group is not None:
                memory = TokenShares(memory, self.group, self.spec)
            return predict(self.backbone, latents, timesteps, condition, memory, **extra)

        if isinstance(memory, JoinedMemory) or not (request.checkpoint and torch.is_grad_enabled()):
            return forward(memory)
        memories = chain([memory], repeat(memory.frozen()))
        made: Tensor = checkpoint(lambda: forward(next(memories)), use_reentrant=False)
        return made

    def _level(self, request: Pass) -> LevelFeatures:
        """What the network has computed from the noise level of a pass, where all frames have the same, or two blocks
        one each.

        Not in mixed precision, where what is computed once may have another number format than what is multiplied.
        Not of a sharded network, whose weights are whole in its forward pass only.
        """
        mixed = any(map(torch.is_autocast_enabled, ("cpu", "cuda")))
        levels = request.levels if isinstance(request, _Paired) else (request.timestep,)
        known = tuple(level for level in levels if not isinstance(level, Tensor))
        if len(known) < len(levels) or torch.is_grad_enabled() or mixed or self._sharded:
            return {}
        if known not in self.levels:
            if len(self.levels) == MOST_LEVELS:
                self.levels.clear()
            each = [torch.full((1,), float(level), device=self.device) for level in known]
            self.levels[known] = self.backbone.level_features(levels_of(self.spec, torch.cat(each)))
        return self.levels[known]

    def _timesteps(self, request: Pass) -> Tensor:
        """The noise level of each frame, float32 ``[B, F]``, on the device."""
        shape, level = request.latents.shape[:2], request.timestep
        if isinstance(level, Tensor):
            return sent(level.float(), self.device).expand(shape)
        return torch.full(shape, float(level), device=self.device)

    def _plan(self, step: Step) -> ReadPlan:
        with self.asking("for its plan", step):
            plan = self.parts.policy.plan(step)
        return read_plan("cache policy", self.parts.policy, plan, f"as the plan of block {step.index}")

    @contextmanager
    def _following(self, step: Step, memory: CachedMemory) -> Iterator[None]:
        """Around what a memory does as the policy says."""
        try:
            yield
        except ValueError as error:
            raise UserError(
                f"The cache policy {type(self.parts.policy).__name__} cannot be followed at block {step.index} "
                f"({step.phase.value}, level {step.level}): {error}"
            ) from error
        except Exception as error:
            if (named := attributed(error, "memory", memory, f"preparing block {step.index}")) is error:
                raise
            raise named from error

    def _close(self, step: Step, branch: str, frontier: int) -> None:
        """Ends a pass of a guidance branch, or a commit without one."""
        again: list[range | Reencode] = []
        with self.asking("which frames live", step):
            last = branch == self.parts.sampler.guidance_branches[-1]
            if step.phase.final and last:  # every branch has seen the same plan
                again = wishes(self.parts.policy, self.parts.policy.on_commit(step), "on_commit")
            self._end(self.memories[branch], step, frontier, last)
        if again:
            self._recache(again, Step(step.index + 1, step.frames.stop, self.spec.block))

    def _end(self, memory: CachedMemory, step: Step, frontier: int, last: bool) -> None:
        """Closes the pass. Frames that the policy does not keep are dropped; estimates stay until a block is done.

        ``last`` says whether every guidance branch has seen it.
        """
        if step.phase is Phase.ESTIMATE or step.keeps:
            self.estimated |= {*step.frames}
            self.left = {*step.frames} if step.keeps else set()
        elif step.phase.final and last:
            self.estimated -= {*step.frames}
        reached = step.frames.stop if step.phase.final else frontier
        live, moves = self._live("live", reached), self._live("moves", reached)
        kept, raw = live | self.estimated, moves | self.estimated
        final = step.phase.final and type(self.parts.policy).on_commit is not CachePolicy.on_commit
        if final and not last:  # on_commit is still to come, and may decide that other frames live
            kept |= self._live("live", step.start) | {*step.frames}
            raw |= self._live("moves", step.start) | {*step.frames}
        with attribute_errors("memory", memory, f"after a pass of block {step.index}"):
            memory.end(kept, raw)
            for other in self.memories.values() if final and last else ():
                if other is not memory:
                    other.end(kept, raw)
        if last and step.phase.final:
            self._keep_latents(live)

    def _keep_latents(self, frames: frozenset[int]) -> None:
        self.finished = {frame: kept for frame, kept in self.finished.items() if frame in frames}

    def _live(self, name: str, start: int) -> frozenset[int]:
        """The frames that the policy's ``live`` or ``moves`` names."""
        policy = self.parts.policy
        return frame_numbers(policy, getattr(policy, name)(start, self.spec.block), name, start)


@dataclass(frozen=True)
class _Paired(Pass):
    """A pass of two blocks, each with a noise level of its own.

    Args:
        levels: the noise level of each frame.
    """

    levels: tuple[float | Tensor, ...] = ()


def _watch(policy: CachePolicy, spec: ModelSpec) -> Watch | None:
    """Gathers the queries and keys that a policy observes, if any."""
    layers = range(spec.layers) if policy.observes == "all" else policy.observes
    return Watch(layers, policy.sees, policy.whole, spec.tokens) if layers else None


def _computing(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """What the network computes in: the dtype of autocast, or that of its weights."""
    mixed = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if mixed else dtype
