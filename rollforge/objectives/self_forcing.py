"""Self Forcing (arXiv 2506.08009): the student is trained on videos that it has generated on its own history.

Each step generates videos from prompts alone, through the rollout that ``predict`` runs. One exit step is drawn for all
blocks and processes; a block leaves its sampler there, and only the exit pass has gradients. The matching loss gets the
whole video. The critic learns the student's videos between the student's steps.

===================  =====================================================================================
number               value
===================  =====================================================================================
steps                1000, 750, 500, 250, shift 5 (``model.sampler``); exit step uniform
history              the cache is not cut: ``commit + (exit - stop(exit))``
commit               noised to sigma .00498, at timestep 0
updates              5 of the critic for each of the student
student              AdamW, betas (0, .999), weight decay .01, rate 2e-6, clip 10 (``trainer``)
critic               the same with rate 4e-7
average              decay .99, from step 200
batch                64
===================  =====================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rollforge.backbones.base import Backbone, Condition
from rollforge.backbones.low_rank import LowRank
from rollforge.errors import UserError
from rollforge.memory import GradientMemory
from rollforge.objectives.base import Clips, Objective
from rollforge.objectives.clips import latents_of
from rollforge.objectives.matching import Match, Matched, Matching
from rollforge.objectives.processes import own_rows
from rollforge.objectives.self_rollout import ExitStep, History, drawn_exit, exit_steps
from rollforge.pipeline import Pipeline
from rollforge.ranges import Count, CountFromZero, Positive
from rollforge.rollout import Rollout


class SelfForcing(Objective):
    """Distils a few-step model on its own rollouts.

    Steps alternate: one of the student, then ``ratio`` of the critic; each counts as a step of the training.

    Args:
        matching: the loss: ``DMD``, ``SiD`` or ``GAN``.
        critic: the network that the critic starts from; bidirectional, of the latent size of the model.
        teacher: the frozen network, bidirectional; ``GAN`` needs none.
        ratio: steps of the critic for each of the student.
        warm_up: steps of the critic before the first of the student.
        frames: latent frames of a rollout. Default: the horizon of the model.
        exit_steps: the steps, from 0, that may be the exit step. Default: all.
        gradient_blocks: only the last so many blocks have gradients. Default: all.
        history: where gradients of later blocks go: ``straight_through`` to the exit pass of earlier ones, as
            released; ``cut``: nowhere; ``commit``: through their commit passes, which takes more memory.
        noisy_commit: shift of the grid whose smallest level commits are noised to in training, as released; null for
            commits as in ``predict``.
        checkpoint: exit passes run again in the backward pass, bit for bit, and keep no activations.
        critic_optimizer: the critic's optimizer.
        critic_scheduler: its learning-rate schedule, stepped with each step of the critic.
        critic_clip: the largest norm of its gradients.
        accumulate: steps of the Trainer whose gradients make one step of the student's optimizer.
        critic_accumulate: the same of the critic's.
        critic_precision: autocast in the critic's own steps: ``bf16``, or ``32`` for none. Default: as the Trainer's.
        critic_lora: trains low-rank matrices next to its linear layers, which keep their own weights.
    """

    def __init__(
        self,
        matching: Matching,
        critic: Backbone,
        teacher: Backbone | None = None,
        ratio: Count = 5,
        warm_up: CountFromZero = 0,
        frames: Count | None = None,
        exit_steps: Sequence[CountFromZero] | None = None,
        gradient_blocks: Count | None = None,
        history: History = "straight_through",
        noisy_commit: Positive | None = 5.0,
        checkpoint: bool = True,
        critic_optimizer: Callable[[Iterable[Any]], Optimizer] = AdamW,
        critic_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        critic_clip: Positive | None = 10.0,
        critic_lora: LowRank | None = None,
        accumulate: Count = 1,
        critic_accumulate: Count = 1,
        critic_precision: Literal["32", "bf16"] | None = None,
    ) -> None:
        if matching.needs_teacher and teacher is None:
            raise UserError(f"SelfForcing with {type(matching).__name__} needs a teacher; name one in its init_args.")
        if critic_lora is not None:
            critic_lora.adapt(critic)
        self.matching, self.teacher, self.critic = matching, teacher, matching.critic(critic)
        self.spec = critic.spec
        self.ratio, self.warm_up, self.frames, self.exit_steps = ratio, warm_up, frames, exit_steps
        self.gradient_blocks, self.history, self.noisy_commit = gradient_blocks, history, noisy_commit
        self.checkpoint = checkpoint
        self.critic_optimizer, self.critic_scheduler = critic_optimizer, critic_scheduler
        self.critic_clip, self.critic_precision = critic_clip, critic_precision
        self.accumulate, self.critic_accumulate = accumulate, critic_accumulate

    @property
    def trains_critic(self) -> bool:
        return self._place()[0]

    @property
    def gathered(self) -> tuple[int, int]:
        return self._place()[1:]

    def _place(self) -> tuple[bool, int, int]:
        """Whether this step is the critic's, its number among those of one step of the optimizer, and their count."""
        student, critic = self.accumulate, self.critic_accumulate
        after = self.step - self.warm_up * critic
        if after < 0:
            return True, self.step % critic, critic
        after %= student + self.ratio * critic
        return (False, after, student) if after < student else (True, (after - student) % critic, critic)

    def __call__(self, pipeline: Pipeline, clips: Clips) -> dict[str, Tensor]:
        self._check(pipeline)
        captions = clips["caption"]
        condition = pipeline.condition(captions)
        negative = pipeline.condition([pipeline.negative_prompt] * len(captions))
        real = self._clips(pipeline, clips) if self.matching.needs_clips else None
        match = Match(self.critic, condition, self.teacher, negative, real)
        if self.trains_critic:
            with torch.no_grad():
                video = self.roll(pipeline, condition)
            with self._precision_of_critic(video.device.type):
                return _logged("critic", self.matching.train_critic(match, video))
        return _logged("student", self.matching.student(match, self.roll(pipeline, condition)))

    def _precision_of_critic(self, device: str) -> AbstractContextManager[Any]:
        if self.critic_precision is None:
            return nullcontext()
        return torch.autocast(device, torch.bfloat16, enabled=self.critic_precision == "bf16")

    def roll(self, pipeline: Pipeline, condition: Condition) -> Tensor:
        """Videos of the student, ``[B, F, C, h, w]``, as ``predict`` rolls them up to the exit step."""
        spec, rows = pipeline.backbone.spec, len(condition.embeds)
        frames = self.frames or spec.horizon
        first = 0 if self.gradient_blocks is None else max(0, frames - self.gradient_blocks * spec.block)
        exit = drawn_exit(exit_steps(pipeline.sampler, self.exit_steps))
        sampler = ExitStep(pipeline.sampler, exit, first, self.history, self.noisy_commit, self.checkpoint)
        run = self.rollout(pipeline, sampler)(condition, frames, int(torch.randint(2**31, ())), own_rows(rows))
        return torch.cat([block.latents for block in run], dim=1)

    def rollout(self, pipeline: Pipeline, sampler: ExitStep) -> Rollout:
        """The rollout that ``predict`` runs, with a memory for gradients."""
        return Rollout(
            pipeline.backbone, pipeline.policy, sampler, pipeline.noise, pipeline.positions, memory=GradientMemory
        )

    def _clips(self, pipeline: Pipeline, clips: Clips) -> Tensor:
        """Latents of true clips as long as a rollout. Raises ``UserError`` for shorter ones."""
        latents, frames = latents_of(self, pipeline, clips), self.frames or pipeline.backbone.spec.horizon
        if latents.shape[1] < frames:
            raise UserError(
                f"{type(self.matching).__name__} compares rollouts of {frames} latent frames with clips, and those "
                f"have {latents.shape[1]}; set data.train_dataset to longer clips, or SelfForcing.frames to fewer."
            )
        return latents[:, :frames]

    def _check(self, pipeline: Pipeline) -> None:
        """Raises ``UserError`` for networks of another latent size, and a rollout that is not whole blocks."""
        own = pipeline.backbone.spec
        frames = self.frames or own.horizon
        if own.whole(frames) != frames:
            raise UserError(f"SelfForcing.frames is {frames}, which are not whole blocks of {own.block} frames.")
        its = {"critic": self.spec, **({"teacher": self.teacher.spec} if self.teacher else {})}
        for name, spec in its.items():
            if spec.latent_shape != own.latent_shape:
                raise UserError(
                    f"SelfForcing: the {name} has latents of {_sizes(spec.latent_shape)} and the model of "
                    f"{_sizes(own.latent_shape)} (channels x height x width); give it the sizes of model.backbone."
                )


def _logged(name: str, matched: Matched) -> dict[str, Tensor]:
    """The losses of a step, by name: of the student and of the critic apart, and for each frame of the videos."""
    losses = {"loss": matched.loss, f"loss_{name}": matched.loss.detach()}
    losses |= {f"{name}_{each}": value.detach() for each, value in matched.logged.items()}
    frames = [] if matched.frames is None else matched.frames.unbind()
    return losses | {f"{name}_frame_{n:02d}": value for n, value in enumerate(frames)}


def _sizes(values: tuple[int, ...]) -> str:
    return "x".join(map(str, values))
