"""The objective: clips and the pipeline in, losses out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Required, TypedDict

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rollforge.backbones.base import Backbone
from rollforge.pipeline import Pipeline
from rollforge.ranges import Checked
from rollforge.state import State


class Clips(TypedDict, total=False):
    """A training batch: a caption for each clip, and pixel frames, latents or trajectories."""

    caption: Required[list[str]]
    video: Tensor
    """uint8 ``[B, T, H, W, 3]``."""
    decoded: Tensor
    """The same frames as the codec decodes them, ``[B, T, 3, h, w]`` in 0..1, where the objective made them."""
    latents: Tensor
    """``[B, F, C, h, w]``, where they are read in place of pixel frames."""
    trajectory: Tensor
    """``[B, S, F, C, h, w]``: states of a teacher's solution at ``timesteps``, its end point, and what else is stored
    (``Trajectories``)."""
    timesteps: Tensor
    """``[B, levels]``, falling."""
    source: list[str]
    """The source of each clip, for messages."""


class Objective(Checked, ABC):
    """A training loss."""

    trains = "backbone"
    """The component that the loss trains: ``backbone``, ``codec`` or ``finish``."""

    step = 0
    """Optimizer steps done so far, set before each call."""

    teacher: Backbone | None = None
    """A frozen network that the loss reads. It moves with the module; no checkpoint holds it."""

    critic: nn.Module | None = None
    """A second network that the loss trains, alternating with the component. Every checkpoint of training holds it."""

    critic_optimizer: Callable[..., Optimizer] = AdamW
    """Makes the optimizer of the critic's weights."""

    critic_scheduler: Callable[[Optimizer], LRScheduler] | None = None
    """Makes the learning-rate schedule of that optimizer, stepped with each of its own steps."""

    critic_clip: float | None = None
    """The largest norm of the critic's gradients; None: no clipping. The Trainer clips those of the component."""

    average: nn.Module | None = None
    """The running average of the trained component (``model.ema``), set before each call; None without one."""

    def state_dict(self) -> State:
        """State that the loss carries from step to step, for checkpoints: tensors and plain data. Default: empty."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Restores what ``state_dict`` returned."""

    @property
    def trains_critic(self) -> bool:
        """Whether the critic is trained at this ``step``, and not the component."""
        return False

    @property
    def gathered(self) -> tuple[int, int]:
        """The number of this step among those whose gradients make one step of the optimizer, from 0, and their count.

        For losses with a critic; for others it is the Trainer that accumulates. Default: each step is one alone.
        """
        return 0, 1

    def prepare(self, pipeline: Pipeline, clips: Clips) -> Clips:
        """Adds what the loss needs of full clips, before ``Multigrid`` cuts them. Default: the clips as they are."""
        return clips

    @abstractmethod
    def __call__(self, pipeline: Pipeline, clips: Clips) -> dict[str, Tensor]:
        """Named scalars; ``loss`` is the one to minimise, the others are logged."""
