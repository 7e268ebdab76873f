"""The loop: an iterator of finished blocks.

rollout = Rollout(backbone, RollingSink(), FewStep())
for block in rollout(condition, frames=1203, seed=0):
    video = decode(block.latents)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from rollforge.spec import Phase, Step


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
        condition: Condition,
        frames: int,
        seed: int = 0,
        samples: Sequence[int] | None = None,
        negative: Condition | None = None,
        given: Tensor | None = None,
    ) -> Iterator[Block]:
        """Yields finished blocks until ``frames`` latent frames (rounded up to whole blocks) are made.

        Args:
            condition: text features, one row for each sample of the batch.
            frames: latent frames of the whole video, given ones included.
            seed: with a sample's number, decides its noise.
            samples: the samples' numbers; 0, 1, 2, ... unless said.
            negative: text features of the negative prompt, for samplers that use guidance.
            given: latents ``[B, F, C, H, W]`` in whole blocks that start the video (image or clip to extend).
        """
        conditions = {"prompt": condition, "negative": negative}
        for lane in self.sampler.lanes:
            if conditions[lane] is None:
                raise UserError(
                    f"{type(self.sampler).__name__} uses guidance: it needs the features of a {lane} prompt."
                )
        numbers = tuple(range(len(condition.embeds)) if samples is None else samples)
        if len(numbers) != len(condition.embeds):
            raise UserError(
                f"{len(condition.embeds)} prompts came with {len(numbers)} sample numbers; give one for each."
            )
        if frames < 1:
            raise UserError(f"A rollout needs 1 frame or more, not {frames}.")
        if given is not None:
            self._check(given, len(numbers), frames)
        lanes = {lane: kept for lane in self.sampler.lanes if (kept := conditions[lane]) is not None}
        return _Run(self, lanes, frames, seed, numbers).blocks(given)

    def _check(self, given: Tensor, samples: int, frames: int) -> None:
        spec = self.backbone.spec
        if given.dim() != 5 or (len(given), *given.shape[2:]) != (samples, *spec.latent_shape):
            raise UserError(
                f"The given latents are {list(given.shape)}; expected {[samples, 'frames', *spec.latent_shape]}."
            )
        if given.shape[1] % spec.block or not 0 < given.shape[1] <= frames:
            raise UserError(
                f"{given.shape[1]} given frames for a video of {frames}: expected whole blocks of {spec.block}, at "
                "least one and no more than the video is long."
            )


class _Run:
    """One rollout in progress: its memories and its copy of the policy."""

    def __init__(
        self, rollout: Rollout, conditions: dict[str, Condition], frames: int, seed: int, samples: tuple[int, ...]
    ) -> None:
        weight = next(rollout.backbone.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.backbone, self.noise, self.sampler = rollout.backbone, rollout.noise, rollout.sampler
        self.spec = rollout.backbone.spec
        self.policy = deepcopy(rollout.policy)
        self.conditions = {lane: kept.to(self.device, self.dtype) for lane, kept in conditions.items()}
        visible = self.policy.visible(self.spec.block)
        self.memories = {lane: RolloutMemory(self.spec, visible, rollout.rope, rollout.kv_codec) for lane in conditions}
        self.blocks_total = -(-frames // self.spec.block)
        self.seed, self.samples = seed, samples

    def blocks(self, given: Tensor | None) -> Iterator[Block]:
        first = 0
        if given is not None:
            yield from self._prefill(given)
            first = given.shape[1] // self.spec.block
        steps = (Step.of(index, self.spec.block) for index in range(first, self.blocks_total))
        passes = self.sampler.run(Job(steps, self._draw))
        answer: Tensor | None = None
        while True:
            try:
                request = passes.send(answer) if answer is not None else next(passes)
            except StopIteration:
                return
            answer = None
            if isinstance(request, Finished):
                yield Block(request.step.index, request.step.start, request.latents)
            else:
                answer = self._forward(request)

    @torch.no_grad()
    def _forward(self, request: Pass) -> Tensor:
        step, latents = request.step, request.latents
        if step.phase is Phase.COMMIT and step.index == self.blocks_total - 1:
            return latents  # nothing will read the last block
        memory = self.memories[request.lane]
        memory.begin(step, request.plan or self.policy.plan(step))
        timesteps = torch.as_tensor(request.timestep, dtype=torch.float32, device=self.device).expand(latents.shape[:2])
        flow: Tensor = self.backbone(latents.to(self.dtype), timesteps, self.conditions[request.lane], memory)
        if step.phase.writes and request.lane == self.sampler.lanes[-1]:  # every lane has seen the same plan
            self.policy.on_commit(step)
        memory.end(self.policy.live(step.frames.stop, step.block))
        return flow.to(latents.dtype)

    def _prefill(self, given: Tensor) -> Iterator[Block]:
        for index, latents in enumerate(given.to(self.device, torch.float32).split(self.spec.block, dim=1)):
            step = Step.of(index, self.spec.block, Phase.PREFILL)
            for lane in self.sampler.lanes:
                self._forward(Pass(step, latents, 0.0, lane))
            yield Block(index, step.start, latents)

    def _draw(self, step: Step, level: int) -> Tensor:
        drawn = self.noise.batch(self.seed, self.samples, step.frames, level, self.spec.latent_shape)
        return drawn.to(self.device)
