"""The budget of ``fit``, before its first step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import nn
from torch.optim import Optimizer

from rollforge.budget.budget_check import BudgetCheck, free_for
from rollforge.budget.memory_input import size_of, work_of
from rollforge.budget.table import Budget
from rollforge.data.requests import Request
from rollforge.objectives.base import Objective
from rollforge.pipeline import Pipeline
from rollforge.training_budget.work import Measured, TrainingWork, fitting_training

log = logging.getLogger(__name__)

SHARDING = ("ModelParallelStrategy", "FSDPStrategy")
"""Strategies of Lightning under which each process holds a share of the network."""


@dataclass(frozen=True)
class Recipe:
    """How a pipeline is trained.

    Args:
        objective: the loss.
        optimizer: makes the optimizer of some weights.
        ema: whether a running average of the weights is kept.
        average: the average, where it has been made.
    """

    objective: Objective
    optimizer: Callable[..., Optimizer]
    ema: bool
    average: nn.Module | None = None


@dataclass(frozen=True)
class TrainingCheck(BudgetCheck):
    """A training, counted, and the bytes free for it on each device."""

    training: Measured
    free: Mapping[str, int | None]

    @classmethod
    def of(
        cls, pipeline: Pipeline, recipe: Recipe, trainer: Any, clips: Any, batch: int, requests: Sequence[Request]
    ) -> Self:
        """For a pipeline that ``trainer`` trains on ``batch`` of ``clips`` at once, with samples of ``requests``."""
        device = str(trainer.strategy.root_device)
        work = training_work(pipeline, recipe, trainer, device, clips, batch, requests)
        on_cpu = [pipeline.backbone] * (device == "cpu") + [pipeline.codec]
        held = [each for each in (*on_cpu, recipe.average) if each is not None]
        return cls(Measured.of(work), free_for(trainer.num_devices, (device, work.base.decoding.device), held))

    @classmethod
    def on_card(
        cls, pipeline: Pipeline, recipe: Recipe, trainer: Any, free: int, clips: Any, batch: int,
        requests: Sequence[Request],
    ) -> Self:  # fmt: skip
        """For a CUDA card with ``free`` bytes in a machine that is not this one."""
        work = training_work(pipeline, recipe, trainer, "cuda:0", clips, batch, requests)
        return cls(Measured.of(work), {"cuda:0": free, "cpu": None})

    @property
    def budget(self) -> Budget:
        """The table."""
        return self.training.budget(self.free)

    def advice(self) -> str:
        """The settings that would make it fit, in one sentence."""
        if settings := fitting_training(self.training, self.free):
            return f"It would fit with {' and '.join(settings)}."
        return (
            "No batch size makes it fit; take shorter clips, a smaller height and width, or more devices with "
            "trainer.strategy: ModelParallelStrategy."
        )

    def remedy(self) -> str:
        """What to change after the memory has run out although the budget said that it would do."""
        smaller = self.training.work.batch // 2
        advice = f"set data.batch_size: {smaller}" if smaller else "take shorter clips"
        return f"Free memory that other programs hold, or {advice}."


def training_work(
    pipeline: Pipeline, recipe: Recipe, trainer: Any, device: str, clips: Any, batch: int, requests: Sequence[Request]
) -> TrainingWork:
    """The work of a pipeline that ``trainer`` trains on ``device``."""
    precision, objective, count = str(trainer.precision), recipe.objective, trainer.world_size
    base = work_of(
        pipeline.backbone, pipeline.codec, pipeline.sampler, {}, device=device, frames=1, precision=precision
    )
    parts = dict(vars(pipeline))
    shape, caption = _clip(clips)
    samples = pipeline.memory_input(requests, device=device, precision=precision) if requests else None
    return TrainingWork(
        objective, parts, recipe.optimizer, base, precision,
        average=size_of(parts[objective.trains]) if recipe.ema else 0, clip=shape, captions=caption,
        batch=max(1, min(batch, len(clips) // count)), accumulating=trainer.accumulate_grad_batches != 1,
        processes=count, sharded=type(trainer.strategy).__name__ in SHARDING,
        samples=samples,
    )  # fmt: skip


def _clip(clips: Any) -> tuple[tuple[int, ...] | None, tuple[str, ...]]:
    """Shape and caption of the first clip, ``()`` for a prompt alone; neither where it cannot be read."""
    try:
        clip = clips[0]
        shape = tuple(clip["video"].shape) if {*clip} - {"caption", "source"} else ()
        return shape, (str(clip["caption"]),)
    except Exception:  # any dataset, by anyone
        log.debug("No clip could be read.", exc_info=True)
        return None, ()
