"""What ``fit`` holds: weights, gradients, optimizer state, averaged weights, a step's activations, and its samples.

- gradients are as large as the weights in training, and live from one backward pass to the next;
- the optimizer's state is that of the optimizer itself, run on the shapes of the weights;
- a step's activations are counted by running the loss and its backward pass on shapes;
- samples are rolled while all of this is in memory, next to a copy of the weights where averaged ones take their place.

Not counted: what a user's callback or logger holds, and the layers that a sharded network gathers for a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from rollforge.backbones.base import Conditioner
from rollforge.backbones.low_rank import trainable
from rollforge.budget.decoder import encoding_bytes
from rollforge.budget.lines import RESERVE, lines, weight_lines
from rollforge.budget.memory_input import MemoryInput, size_of
from rollforge.budget.table import ALWAYS, ROLLING, Budget, Line
from rollforge.errors import attribute_errors
from rollforge.objectives.base import Objective
from rollforge.precision import MIXED, TRUE
from rollforge.training_budget.step import Update, latent_frames, step_bytes, update_of


@dataclass(frozen=True)
class Step:
    """Bytes of a step of one clip, and of each clip more."""

    first: int
    more: int

    def of(self, clips: int) -> int:
        """Bytes of a step of that many clips."""
        return self.first + (clips - 1) * self.more


@dataclass(frozen=True)
class TrainingWork:
    """The properties of a training that determine its memory.

    Args:
        objective: the loss.
        parts: the backbone, the codec and whatever else of the module the loss uses.
        optimizer: makes the optimizer of some weights.
        base: device, number formats and codec, as of a rollout.
        precision: the Trainer's.
        average: bytes of the averaged weights.
        clip: shape of a clip, ``[T, H, W, 3]``; ``()`` for a prompt alone, None where it is not known.
        captions: some of the captions.
        batch: clips in a step of one process.
        accumulating: whether gradients of several batches are added up.
        processes: of the run.
        sharded: whether they share the network out among them.
        samples: the rollout of a report, where there is one.
    """

    objective: Objective
    parts: Mapping[str, Any]
    optimizer: Callable[..., torch.optim.Optimizer]
    base: MemoryInput
    precision: str
    average: int
    clip: tuple[int, ...] | None
    captions: tuple[str, ...]
    batch: int
    accumulating: bool = False
    processes: int = 1
    sharded: bool = False
    samples: MemoryInput | None = None

    @property
    def trained(self) -> nn.Module:
        """The part in training."""
        part: nn.Module = self.parts[self.objective.trains]
        return part

    @property
    def dtype(self) -> torch.dtype | None:
        """Of the weights in training, where the precision says so. Only a backbone follows it."""
        return TRUE.get(self.precision) if self.objective.trains == "backbone" else None

    @property
    def shards(self) -> int:
        """Pieces that the network is in, one of them on each device."""
        return self.processes if self.sharded else 1

    def step(self) -> Step | None:
        """What a step takes; None where that cannot be counted."""
        if self.clip is None:
            return None
        one, two = (
            step_bytes(
                self.objective, dict(self.parts), (clips, *self.clip), dtype=TRUE.get(self.precision),
                half=MIXED.get(self.precision), device=self.base.device, kept_gradients=self.accumulating,
            )
            for clips in (1, 2)
        )  # fmt: skip
        return None if one is None or two is None else Step(one, two - one)

    def update(self) -> Update | None:
        """What the optimizer takes; None where that cannot be counted."""
        return update_of(self.optimizer, self.trained, self.dtype, self.base.device)

    def critic_update(self) -> Update | None:
        """What the optimizer of a critic takes; None where there is none, or where that cannot be counted."""
        critic, optimizer = self.objective.critic, self.objective.critic_optimizer
        return None if critic is None else update_of(optimizer, critic, None, self.base.device)


@dataclass(frozen=True)
class Measured:
    """A training whose step and optimizer have been counted."""

    work: TrainingWork
    step: Step | None
    update: Update | None
    critic_update: Update | None = None

    @classmethod
    def of(cls, work: TrainingWork) -> Measured:
        """Counts them."""
        return cls(work, work.step(), work.update(), work.critic_update())

    def budget(self, free: Mapping[str, int | None]) -> Budget:
        """What the training needs against what is free."""
        return Budget(tuple(self.lines()), free)

    def lines(self) -> Iterable[Line]:
        """The lines of the budget."""
        work, here = self.work, self.work.base.device
        share = f"1/{work.shards} of them on each device" if work.sharded else ""
        for line in weight_lines(work.base):
            own = work.sharded and line.name == "weights of the network"
            yield replace(line, size=line.size // work.shards, how=share) if own else line
        if (finish := work.parts.get("finish")) is not None:
            yield Line("weights of the finish", size_of(finish), here)
        gradients = size_of_trained(work.trained, work.dtype) // work.shards
        for name, network in (("teacher", work.objective.teacher), ("critic", work.objective.critic)):
            if network is not None:
                yield Line(f"weights of the {name}", size_of(network), here)
        if work.objective.critic is not None:  # the two networks have gradients in turns
            gradients = max(gradients, size_of_trained(work.objective.critic, None))
        yield Line("gradients", gradients, here, share)
        if work.processes > 1 and not work.sharded:
            yield Line("gradients on their way to other processes", gradients, here)
        yield from self._update(share)
        if work.average:
            yield Line("averaged weights", work.average // work.shards, here, share)
        yield from self._step(gradients)
        yield from _reading(work)
        yield from _samples(work)
        if here.startswith("cuda"):
            during = ("clips", "step", "update", *ROLLING)
            yield Line("reserve for matmul workspaces", RESERVE, here, "and fragmentation", during)

    def _update(self, share: str) -> Iterable[Line]:
        here, name = self.work.base.device, "state of the optimizer"
        if self.update is None:
            yield Line(name, 0, here, "it cannot be counted without a step")
            return
        yield Line(name, self.update.state // self.work.shards, here, share)
        yield Line("a step of the optimizer", self.update.working // self.work.shards, here, "", ("update",))
        if self.critic_update is not None:
            yield Line("state of the critic's optimizer", self.critic_update.state, here)

    def _step(self, gradients: int) -> Iterable[Line]:
        work, name = self.work, "activations of a training step"
        if self.step is None:
            why = "its clips have no pixel frames" if work.clip is None else "it cannot be counted without values"
            yield Line(name, 0, work.base.device, f"{type(work.objective).__name__}: {why}", ("step",))
            return
        size = max(0, self.step.of(work.batch) - gradients * work.shards)
        yield Line(name, size, work.base.device, f"{work.batch} clips", ("step",))


def _reading(work: TrainingWork) -> Iterable[Line]:
    """What encodes captions and clips, before the step itself."""
    conditioner: Conditioner = work.parts["conditioner"]
    with attribute_errors("conditioner", conditioner, "reporting its memory"):
        taken = conditioner.encoder_memory(work.captions, work.base.device.startswith("cuda"))
    for device, size in taken.items():
        yield Line("text encoder", size, device, "while a new caption is encoded", ("prompts",))
    if work.clip and work.objective.trains != "codec":
        codec = work.base.decoding
        frames = latent_frames(codec.codec, work.clip[0])
        one = encoding_bytes(codec.codec, work.base.spec, codec.dtype, codec.tile, frames)
        how = f"{work.batch} clips" if one is not None else "it cannot be counted without values"
        yield Line("encoding clips", work.batch * (one or 0), codec.device, how, ("clips",))


def _samples(work: TrainingWork) -> Iterable[Line]:
    """What the samples of a report take."""
    if work.samples is None:
        return
    if work.average:
        size = size_of(work.trained, work.dtype) // work.shards
        yield Line("weights set aside", size, work.base.device, "while samples show the averaged ones", ROLLING)
    for line in lines(work.samples):
        if line.during != ALWAYS and not line.name.startswith(("reserve", "text encoder")):
            yield replace(line, name=f"samples: {line.name}")


def size_of_trained(module: nn.Module, dtype: torch.dtype | None) -> int:
    """Bytes of the parameters that are trained, floats in ``dtype`` where it is given."""
    return sum(each.numel() * (dtype or each.dtype).itemsize for each in trainable(module))


def fitting_training(measured: Measured, free: Mapping[str, int | None]) -> list[str]:
    """Settings under which the training fits, as few and as mild as will do; empty where none are enough."""
    work = measured.work
    steps = [
        ("trainer.precision: bf16-true", lambda one: Measured.of(_in_half(one.work))),
        ("model.ema: 0", lambda one: replace(one, work=replace(one.work, average=0))),
    ]
    kinds: list[tuple[str, Callable[[Measured], Measured]]] = [
        each for each in steps
        if (work.average if "ema" in each[0] else work.objective.trains == "backbone" and not TRUE.get(work.precision))
    ]  # fmt: skip
    settings: list[str] = []
    for kind in (None, *kinds):
        if kind is not None:
            settings, measured = [*settings, kind[0]], kind[1](measured)
        for batch in _halves(work.batch):
            if replace(measured, work=replace(measured.work, batch=batch)).budget(free).fits:
                return [*([f"data.batch_size: {batch}"] if batch < work.batch else []), *settings]
    return []


def _in_half(work: TrainingWork) -> TrainingWork:
    half = torch.bfloat16
    base = replace(work.base, weights=half, computing=half)
    samples = work.samples and replace(work.samples, weights=half, computing=half)
    return replace(work, precision="bf16-true", base=base, samples=samples)


def _halves(count: int) -> Iterable[int]:
    while count:
        yield count
        count //= 2
