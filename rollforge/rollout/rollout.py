"""The loop: an iterator of finished blocks.

rollout = Rollout(backbone, RollingSink(), FewStep())
for block in rollout(condition, frames=1203, seed=0):
    video = decode(block.latents)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from itertools import islice

from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.errors import UserError
from rollforge.positions.base import refusal
from rollforge.rollout.abilities import check_abilities, not_batching
from rollforge.rollout.borders import check_branches, check_condition, check_extra
from rollforge.rollout.components import RolloutComponents
from rollforge.rollout.iterator import RolloutIterator
from rollforge.rollout.steps import Block
from rollforge.rollout.switches import Schedule
from rollforge.spec import Step
from rollforge.state import State

__all__ = ["Block", "Rollout", "RolloutIterator", "Schedule"]


PLANNED = 300  # blocks that are looked ahead


class Rollout(RolloutComponents):
    """Runs a backbone block by block. Calling it starts a rollout; rollouts share only the weights.

    Its arguments are those of ``RolloutComponents``.
    """

    def __call__(
        self,
        condition: Condition | Schedule,
        frames: int,
        seed: int = 0,
        samples: Sequence[int] | None = None,
        negative: Condition | None = None,
        given: Tensor | None = None,
        state: State | None = None,
        finished: Iterable[Tensor] = (),
        cuts: Iterable[int] = (),
    ) -> RolloutIterator:
        """Yields finished blocks until ``frames`` latent frames (rounded up to whole blocks) are made.

        Args:
            condition: text features, one row for each sample of the batch; or several, each from a frame on, as
                ``{0: first, 120: second}``. A switch takes effect at the first block that starts there or later.
            frames: latent frames of the complete video, initial ones included.
            seed: with a sample's number, decides its noise.
            samples: the samples' numbers. Default: 0, 1, 2, ...
            negative: text features of the negative prompt, for samplers that use guidance.
            given: latents ``[B, F, C, H, W]`` that start the video (image or clip to extend). Those that fill no whole
                block enter first, by themselves, so that an image is a block of one frame.
            state: a state to resume from, as returned by ``RolloutIterator.state_dict`` after a block. Blocks before it
                are not yielded again. With the same arguments the rollout equals the uninterrupted one. Other prompts,
                seeds and lengths apply to the later blocks. A policy or sampler with other arguments keeps them, where
                the frames that it reads are in the state; ``UserError`` is raised where they are not.
            finished: latents of all earlier blocks, in order. Required if the state was saved with ``kv=False``.
            cuts: first frames of scenes: a ``Cut`` is announced before the first block that starts there or later.
        """
        check_branches(self.sampler)
        check_abilities(self)
        for each in condition.values() if isinstance(condition, Mapping) else [condition]:
            check_condition("caller of", self, each)
        prompts = _schedule(condition)
        if negative is None and "negative" in self.sampler.guidance_branches:
            raise UserError(f"{type(self.sampler).__name__} uses guidance: it needs the features of a negative prompt.")
        rows = len(prompts[0].embeds)
        if negative is not None:
            check_condition("caller of", self, negative, rows)
        numbers = tuple(range(rows) if samples is None else samples)
        if len(numbers) != rows:
            raise UserError(f"{rows} prompts came with {len(numbers)} sample numbers; give one for each.")
        if len(numbers) > 1 and (alone := not_batching(self)):
            raise UserError(
                f"{alone}, so videos are generated one by one: give one prompt (data.rollout_batch_size: 1)."
            )
        if frames < 1:
            raise UserError(f"A rollout needs 1 frame or more, not {frames}.")
        if given is not None:
            self._check(given, len(numbers), frames)
        whole = [*self.backbone.spec.blocks(frames)][-1].stop if any(each.extra for each in prompts.values()) else 0
        for each in [*prompts.values(), *([negative] if negative else [])]:
            check_extra(each, whole)
        self._check_positions(frames)
        guidance_branches = {
            branch: {0: negative} if branch == "negative" and negative else prompts
            for branch in self.sampler.guidance_branches
        }
        run = RolloutIterator(self, guidance_branches, frames, seed, numbers, tuple(cuts))
        return run.begin(given) if state is None else run.resume(state, given, finished)

    def _check_positions(self, frames: int) -> None:
        """Raises ``UserError`` for a policy that will move frames where they cannot be, as far as its plans say."""
        if self.positions.movable:
            return
        if self.policy.shifts:
            raise UserError(
                f"The cache policy {type(self.policy).__name__} reads frames at other time indices than their own, and "
                f"the positions {type(self.positions).__name__} cannot move a frame; choose another policy or other "
                "positions."
            )
        policy, spec = deepcopy(self.policy), self.backbone.spec
        for index, run in enumerate(islice(spec.blocks(frames), PLANNED)):
            step = Step(index, run.start, spec.block, count=len(run))
            with suppress(Exception):  # a policy that learns from commits may not know yet; it is asked again later
                if why := refusal(self.positions, policy.plan(step), step):
                    break
        else:
            return
        raise UserError(f"The cache policy {type(policy).__name__} does not suit this network. {why}")

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
