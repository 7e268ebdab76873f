"""Streaming long tuning (LongLive, arXiv 2509.22622): Self Forcing on rollouts longer than the horizon.

Each step continues the same video by one window, from the keys and values that the step before has left, without
gradient into them. The loss scores that window alone; teacher and critic see it as a short video. At the longest length
a new video starts. A prompt may switch between windows; the policy then does what it does in inference.

===================  =====================================================================================
number               value
===================  =====================================================================================
window               the horizon of the model
longest video        4 windows here; 60 s in the paper
policy               the one that will roll the model (``model.policy``), such as ``LongLive``
others               as ``SelfForcing``
===================  =====================================================================================

No code with numbers was at hand for this method; it is our reading of the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rollforge.backbones.base import Backbone, Condition
from rollforge.errors import UserError
from rollforge.objectives.base import Clips
from rollforge.objectives.matching import Matching
from rollforge.objectives.processes import are_several, own_rows
from rollforge.objectives.self_forcing import SelfForcing
from rollforge.objectives.self_rollout import ExitStep, History, drawn_exit, exit_steps
from rollforge.pipeline import Pipeline
from rollforge.ranges import Count, CountFromZero, Positive, Share
from rollforge.state import State


class LongTuning(SelfForcing):
    """Distils on windows of long rollouts, under the policy of the model.

    Args:
        matching: as in ``SelfForcing``.
        critic: as in ``SelfForcing``.
        teacher: as in ``SelfForcing``.
        ratio: as in ``SelfForcing``; every step, of either network, continues the video.
        warm_up: as in ``SelfForcing``.
        frames: latent frames of a window. Default: the horizon of the model.
        exit_steps: as in ``SelfForcing``.
        gradient_blocks: only the last so many blocks of a window have gradients. Default: all.
        history: as in ``SelfForcing``; no gradient leaves the window.
        noisy_commit: as in ``SelfForcing``.
        checkpoint: as in ``SelfForcing``.
        critic_optimizer: as in ``SelfForcing``.
        critic_scheduler: as in ``SelfForcing``.
        critic_clip: as in ``SelfForcing``.
        windows: windows of the longest video.
        switch: share of the windows, but the first of a video, that begin with another prompt.
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
        windows: Count = 4,
        switch: Share = 0.0,
    ) -> None:
        super().__init__(
            matching, critic, teacher, ratio, warm_up, frames, exit_steps, gradient_blocks, history, noisy_commit,
            checkpoint, critic_optimizer, critic_scheduler, critic_clip,
        )  # fmt: skip
        if matching.needs_clips:
            raise UserError(
                f"LongTuning has no true clips of a long video, and {type(matching).__name__} compares with them; set "
                "matching to DMD or SiD."
            )
        self.windows, self.switch = windows, switch
        self.done = 0  # windows of the video
        self.seed = 0  # of its noise
        self.shots: dict[int, list[str]] = {}  # its captions, by the window that they begin with
        self.kept: State | None = None  # what its rollout has left

    def __call__(self, pipeline: Pipeline, clips: Clips) -> dict[str, Tensor]:
        return super().__call__(pipeline, {**clips, "caption": self._captions(clips["caption"])})

    def roll(self, pipeline: Pipeline, condition: Condition) -> Tensor:
        """The next window of the video, ``[B, F, C, h, w]``."""
        spec, rows = pipeline.backbone.spec, len(condition.embeds)
        frames = self.frames or spec.horizon
        start = self.done * frames
        first = start if self.gradient_blocks is None else start + max(0, frames - self.gradient_blocks * spec.block)
        exit = drawn_exit(exit_steps(pipeline.sampler, self.exit_steps))
        sampler = WindowExit(pipeline.sampler, exit, first, self.history, self.noisy_commit, self.checkpoint)
        prompts = {window * frames: pipeline.condition(captions) for window, captions in self.shots.items()}
        run = self.rollout(pipeline, sampler)(prompts, start + frames, self.seed, own_rows(rows), state=self.kept)
        video = torch.cat([block.latents for block in run], dim=1)
        self.kept, self.done = _detached(run.state_dict()), self.done + 1
        return video

    def state_dict(self) -> State:
        """The video, so that a resumed training continues it. Of several processes each starts a new one instead."""
        if are_several():
            return {}
        return {"done": self.done, "seed": self.seed, "shots": self.shots, "kept": self.kept}

    def load_state_dict(self, state: State) -> None:
        self.done, self.seed, self.shots, self.kept = (state[name] for name in ("done", "seed", "shots", "kept"))

    def _captions(self, offered: list[str]) -> list[str]:
        """The captions of the next window: those in force, or the offered ones, where a video or a prompt begins."""
        drawn = torch.rand((), generator=torch.Generator().manual_seed(self.step)).item()  # alike in all processes
        in_force = self.shots.get(max(self.shots, default=0), [])
        if self.kept is None or self.done >= self.windows or len(in_force) != len(offered):
            self.done, self.kept, self.shots = 0, None, {0: offered}
            self.seed = int(torch.randint(2**31, ()))
        elif drawn < self.switch:
            self.shots[self.done] = offered
        return self.shots[max(self.shots)]


class WindowExit(ExitStep):
    """Carries nothing from window to window: each has its own exit step and its own first frame with gradients."""

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        return


def _detached(value: Any) -> Any:
    """Nested plain data whose tensors have no graph."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {key: _detached(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_detached(each) for each in value)
    return value
