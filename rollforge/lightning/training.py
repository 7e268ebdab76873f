"""What ``fit`` does with the LightningModule: one step, the average of the weights, and what a checkpoint holds."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from rollforge.backbones.base import Backbone, Conditioner, VideoCodec
from rollforge.backbones.training_checkpoint import AVERAGE
from rollforge.backbones.weights import check_fit
from rollforge.borders import check_losses
from rollforge.errors import UserError, attribute_errors, ran_out
from rollforge.lightning.average import Average, use_ema_weights
from rollforge.lightning.parallel import draw_apart
from rollforge.lightning.precision import float32_by_default, representable_epsilon
from rollforge.lightning.random_state import random_state, restore_random_state
from rollforge.lightning.resuming import between_steps, settled
from rollforge.objectives.base import Clips, Objective
from rollforge.pipeline import Pipeline
from rollforge.training_budget import Recipe

log = logging.getLogger(__name__)


class TrainedModule(LightningModule):
    """Trains one part of a model by its objective."""

    pipeline: Pipeline
    backbone: Backbone
    conditioner: Conditioner
    codec: VideoCodec
    objective: Objective | None
    optimizer: OptimizerCallable
    scheduler: LRSchedulerCallable | None

    def __init__(self) -> None:
        super().__init__()
        self.average: Average | None = None
        self.loaded: dict[str, Any] = {}  # from a checkpoint, until the first batch

    @property
    def trained(self) -> nn.Module:
        """The part that ``fit`` trains."""
        if self.objective is None:
            raise UserError("fit needs model.objective, the loss to train with, and the config names none.")
        return self.get_submodule(self.objective.trains)

    @property
    def recipe(self) -> Recipe:
        """How it is trained, for the budget."""
        assert self.objective is not None
        average = None if self.average is None else self.average.module
        return Recipe(self.objective, self.optimizer, average is not None, average)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Puts the averaged weights in place of the trained ones for a while."""
        if self.average is None:
            yield
            return
        kept = {name: value.clone() for name, value in self.trained.state_dict().items()}
        self.trained.load_state_dict(self.average.module.state_dict())
        try:
            yield
        finally:
            self.trained.load_state_dict(kept)

    def on_train_start(self) -> None:
        self.draws = torch.initial_seed()

    def on_train_batch_start(self, batch: Clips, batch_idx: int) -> None:
        self.continue_from_checkpoint()
        if self.trainer.world_size > 1:
            done = self.trainer.fit_loop.total_batch_idx
            draw_apart(self.draws, done, self.global_rank, self.trained)

    @float32_by_default()
    def training_step(self, batch: Clips, batch_idx: int) -> Tensor:
        assert self.objective is not None
        for part in (self.backbone, self.codec, self.conditioner):
            part.train(part is self.trained)
        if self.objective.teacher is not None:
            self.objective.teacher.eval().requires_grad_(False)
        with attribute_errors("objective", self.objective, f"at step {self.global_step}"):
            self.objective.step = self.global_step
            self.objective.average = None if self.average is None else self.average.module
            losses = check_losses(self.objective, self.objective(self.pipeline, batch), f"at step {self.global_step}")
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()}, sync_dist=True)
        self.log("loss", losses["loss"].detach(), prog_bar=True, logger=False)
        return losses["loss"]

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        if self.average is not None:  # here and not after the batch, when callbacks have saved their checkpoint already
            self.average.update_parameters(self.trained)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        with attribute_errors("scheduler", scheduler, f"at step {self.global_step}"):
            super().lr_scheduler_step(scheduler, metric)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["random_state"] = random_state()
        if self.objective is not None and (state := self.objective.state_dict()):
            checkpoint["objective"] = state
        if between_steps(self.trainer) or self.trainer.world_size > 1:
            return
        checkpoint["gradients"] = {
            name: weight.grad for name, weight in self.trained.named_parameters() if weight.grad is not None
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        if (weights := checkpoint.get("state_dict")) is not None:  # sharded ones are in the network already
            if fitting:
                self.rename(weights)
            else:
                self.take_average(weights)
            check_fit(self.state_dict(), weights, type(self).__name__, self.trainer.ckpt_path or "the checkpoint")
        if fitting:
            checkpoint["loops"]["fit_loop"] = settled(checkpoint["loops"]["fit_loop"])
            self.loaded = {name: checkpoint.get(name) for name in ("random_state", "gradients", "objective")}
            if self.loaded["random_state"] is None:
                log.warning("The checkpoint holds no random state; training continues with other random numbers.")

    def take_average(self, weights: dict[str, Tensor]) -> None:
        """Puts averaged weights in place of the trained ones, and leaves the module's own average as it is."""
        for name in [*weights]:
            weights[plain(name)] = weights.pop(name)
        use_ema_weights(weights)
        self.rename(weights)
        weights |= {name: value for name, value in self.state_dict().items() if name.startswith(AVERAGE)}

    def rename(self, weights: dict[str, Tensor]) -> None:
        """Names weights as the module does, whether ``torch.compile`` has wrapped its network, theirs, or neither."""
        own = {plain(name): name for name in self.state_dict()}
        for name in [*weights]:
            weights[own.get(plain(name), name)] = weights.pop(name)

    def continue_from_checkpoint(self) -> None:
        """Restores, before the first batch after a checkpoint was loaded, what is lost or drawn from until then."""
        loaded, self.loaded = self.loaded, {}
        if state := loaded.get("random_state"):
            restore_random_state(state)
        if self.objective is not None and (state := loaded.get("objective")):
            self.objective.load_state_dict(state)
        for name, gradient in (loaded.get("gradients") or {}).items():
            weight = self.trained.get_parameter(name)
            weight.grad = gradient.to(weight)

    def configure_optimizers(self) -> Any:
        with _made("optimizer"):
            optimizer = self.optimizer(self.trained.parameters())
        representable_epsilon(optimizer)
        if self.scheduler is None:
            return optimizer
        with _made("scheduler"):
            scheduler = self.scheduler(optimizer)
        monitor = getattr(scheduler, "monitor", "loss")  # of a plateau schedule; torch's own class names none
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "monitor": monitor},
        }


@contextmanager
def _made(name: str) -> Iterator[None]:
    """Around the making of an optimizer or a schedule: raises ``UserError`` for arguments that it does not take."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or ran_out(error):
            raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(f"model.{name} cannot be made ({first}); give it what it needs in its init_args.") from error


def plain(name: str) -> str:
    """The name of a weight, whether ``torch.compile`` has wrapped its network or not."""
    return name.replace("_orig_mod.", "")
