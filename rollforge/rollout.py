"""The loop: an iterator of finished blocks.

rollout = Rollout(backbone, RollingSink(), FewStep())
for block in rollout(condition, frames=1203, seed=0):
    video = decode(block.latents)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rollforge.backbones.base import Backbone, Condition
from rollforge.errors import UserError
from rollforge.memory import KVCodec, Plain, RolloutMemory, Rope
from rollforge.noise import IndependentNoise, NoisePrior
from rollforge.policies.base import CachePolicy
from rollforge.samplers.base import Finished, Job, Pass, Sampler
from rollforge.spec import Phase, PromptSwitch, Step

Schedule = Mapping[int, Condition]
"""The frame from which on each condition is in force; the first key is 0."""


@dataclass(frozen=True)
class Block:
    """A finished block: its number, its first frame and its latents ``[B, F, C, H, W]``."""

    index: int
    start: int
    latents: Tensor


@dataclass
class Rollout:
    """Rolls a backbone block by block. Calling it starts a rollout; rollouts share nothing but the weights.

    Args:
        backbone: the network.
        policy: what each block sees.
        sampler: how a block is denoised.
        noise: where its noise comes from.
        rope: temporal rotary embedding.
        kv_codec: how keys and values are kept.
    """

    backbone: Backbone
    policy: CachePolicy
    sampler: Sampler
    noise: NoisePrior = field(default_factory=IndependentNoise)
    rope: Rope = field(default_factory=Rope)
    kv_codec: KVCodec = field(default_factory=Plain)

    def __call__(
        self,
        condition: Condition | Schedule,
        frames: int,
        seed: int = 0,
        samples: Sequence[int] | None = None,
        negative: Condition | None = None,
        given: Tensor | None = None,
    ) -> Iterator[Block]:
        """Yields finished blocks until ``frames`` latent frames (rounded up to whole blocks) are made.

        Args:
            condition: text features, one row for each sample of the batch; or several, each from a frame on, as
                ``{0: first, 120: second}``. A switch takes effect at the first block that starts there or later.
            frames: latent frames of the whole video, given ones included.
            seed: with a sample's number, decides its noise.
            samples: the samples' numbers; 0, 1, 2, ... unless said.
            negative: text features of the negative prompt, for samplers that use guidance.
            given: latents ``[B, F, C, H, W]`` that start the video (image or clip to extend). Those that fill no whole
                block enter first, by themselves, so that an image is a block of one frame.
        """
        prompts = _schedule(condition)
        if negative is None and "negative" in self.sampler.lanes:
            raise UserError(f"{type(self.sampler).__name__} uses guidance: it needs the features of a negative prompt.")
        rows = len(prompts[0].embeds)
        numbers = tuple(range(rows) if samples is None else samples)
        if len(numbers) != rows:
            raise UserError(f"{rows} prompts came with {len(numbers)} sample numbers; give one for each.")
        if frames < 1:
            raise UserError(f"A rollout needs 1 frame or more, not {frames}.")
        if given is not None:
            self._check(given, len(numbers), frames)
        lanes = {lane: {0: negative} if lane == "negative" and negative else prompts for lane in self.sampler.lanes}
        return _Run(self, lanes, frames, seed, numbers).blocks(given)

    def _check(self, given: Tensor, samples: int, frames: int) -> None:
        spec = self.backbone.spec
        if given.dim() != 5 or (len(given), *given.shape[2:]) != (samples, *spec.latent_shape):
            raise UserError(
                f"The given latents are {list(given.shape)}; expected {[samples, 'frames', *spec.latent_shape]}."
            )
        if not 0 < given.shape[1] <= frames:
            raise UserError(
                f"{given.shape[1]} given frames for a video of {frames}: expected at least one and no more than the "
                "video is long."
            )


def _schedule(condition: Condition | Schedule) -> Schedule:
    if isinstance(condition, Condition):
        return {0: condition}
    ordered = dict(sorted(condition.items()))
    if next(iter(ordered), None) != 0:
        raise UserError(f"The first prompt must start at frame 0; the prompts start at {list(ordered)}.")
    if len(sizes := {len(each.embeds) for each in ordered.values()}) > 1:
        raise UserError(f"Every prompt of a schedule needs as many rows as the others; they have {sorted(sizes)}.")
    return ordered


class _Run:
    """One rollout in progress: its memories, its copy of the policy, and what a prompt switch reads again."""

    def __init__(
        self, rollout: Rollout, schedules: dict[str, Schedule], frames: int, seed: int, samples: tuple[int, ...]
    ) -> None:
        weight = next(rollout.backbone.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.backbone, self.noise, self.sampler = rollout.backbone, rollout.noise, rollout.sampler
        self.spec = rollout.backbone.spec
        self.policy = deepcopy(rollout.policy)
        self.schedules = {
            lane: {start: kept.to(self.device, self.dtype) for start, kept in schedule.items()}
            for lane, schedule in schedules.items()
        }
        self.switches = [start for start in self.schedules["prompt"] if start]
        visible = self.policy.visible(self.spec.block)
        self.memories = {lane: RolloutMemory(self.spec, visible, rollout.rope, rollout.kv_codec) for lane in schedules}
        self.finished: dict[int, Tensor] = {}  # live frames' latents, kept while a switch may read them again
        self.frames, self.seed, self.samples = frames, seed, samples

    def blocks(self, given: Tensor | None) -> Iterator[Block]:
        steps = list(_given_steps(0 if given is None else given.shape[1], self.spec.block))
        if given is not None:
            yield from self._prefill(given, steps)
        first = len(steps), steps[-1].frames.stop if steps else 0
        passes = self.sampler.run(Job(self._steps(*first), self._draw))
        answer: Tensor | None = None
        while True:
            try:
                request = passes.send(answer) if answer is not None else next(passes)
            except StopIteration:
                return
            answer = None
            if isinstance(request, Finished):
                self._keep(request.step, request.latents)
                yield Block(request.step.index, request.step.start, request.latents)
            else:
                answer = self._forward(request)

    def _steps(self, index: int, start: int) -> Iterator[Step]:
        """The blocks to make. Prompt switches are dealt with as their block is asked for, before its first pass."""
        while start < self.frames:
            step = Step(index, start, self.spec.block)
            if self.switches and self.switches[0] <= start:
                self.switches = [switch for switch in self.switches if switch > start]
                if start:
                    self._switch(step)
            yield step
            index, start = index + 1, start + self.spec.block

    def _switch(self, step: Step) -> None:
        """Tells the policy of a new prompt and reads the frames it names again, oldest first."""
        for again in self.policy.on_event(PromptSwitch(step)):
            latents = torch.cat([self.finished[frame] for frame in again], dim=1)
            past = Step(step.index, again.start, self.spec.block, Phase.RECACHE, count=len(again))
            for lane in self.sampler.lanes:
                self._forward(Pass(past, latents, 0.0, lane), step.start)

    @torch.no_grad()
    def _forward(self, request: Pass, now: int | None = None) -> Tensor:
        """Runs one pass. ``now`` is the frame that the rollout has come to, where it is not the pass's own."""
        step, latents = request.step, request.latents
        if step.phase is Phase.COMMIT and step.frames.stop >= self.frames:
            return latents  # nothing will read the last block
        now = step.start if now is None else now
        memory, plan = self.memories[request.lane], request.plan or self.policy.plan(step)
        memory.begin(step, plan)
        timesteps = torch.as_tensor(request.timestep, dtype=torch.float32, device=self.device).expand(latents.shape[:2])
        flow: Tensor = self.backbone(latents.to(self.dtype), timesteps, self._condition(request.lane, now), memory)
        final = step.phase in (Phase.PREFILL, Phase.COMMIT)
        if final and request.lane == self.sampler.lanes[-1]:  # every lane has seen the same plan
            self.policy.on_commit(step)
        reached = max(now, step.frames.stop if step.phase.writes else step.start)
        memory.end(self.policy.live(reached, step.block), self.policy.revisited(reached, step.block))
        return flow.to(latents.dtype)

    def _condition(self, lane: str, frame: int) -> Condition:
        """The condition in force at a frame."""
        schedule = self.schedules[lane]
        return schedule[max(start for start in schedule if start <= frame)]

    def _prefill(self, given: Tensor, steps: Sequence[Step]) -> Iterator[Block]:
        for step in steps:
            latents = given[:, step.frames.start : step.frames.stop].to(self.device, torch.float32)
            for lane in self.sampler.lanes:
                self._forward(Pass(step, latents, 0.0, lane))
            self._keep(step, latents)
            yield Block(step.index, step.start, latents)

    def _keep(self, step: Step, latents: Tensor) -> None:
        if not self.switches:
            self.finished.clear()
            return
        self.finished |= dict(zip(step.frames, latents.split(1, dim=1), strict=True))
        live = self.policy.live(step.frames.stop, step.block)
        self.finished = {frame: kept for frame, kept in self.finished.items() if frame in live}

    def _draw(self, step: Step, level: int) -> Tensor:
        drawn = self.noise.batch(self.seed, self.samples, step.frames, level, self.spec.latent_shape)
        return drawn.to(self.device)


def _given_steps(frames: int, block: int) -> Iterator[Step]:
    """Given frames as passes: what fills no whole block first, then whole blocks."""
    rest, start = frames % block, 0
    for index, count in enumerate([*([rest] if rest else []), *[block] * (frames // block)]):
        yield Step(index, start, block, Phase.PREFILL, count=None if count == block else count)
        start += count
