"""What ``fit`` does with the LightningModule: one step, the average of the weights, and what a checkpoint holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer

from rollforge.backbones.base import Backbone, Conditioner, VideoCodec
from rollforge.backbones.low_rank import is_adapted, merged, set_trained, trainable
from rollforge.backbones.training_checkpoint import AVERAGE
from rollforge.backbones.weights import check_fit
from rollforge.borders import check_losses
from rollforge.errors import UserError, attribute_errors, ran_out
from rollforge.lightning.average import Average, use_ema_weights
from rollforge.lightning.parallel import draw_apart
from rollforge.lightning.precision import float32_by_default, representable_epsilon
from rollforge.lightning.random_state import random_state, restore_random_state
from rollforge.lightning.resuming import between_steps, settled
from rollforge.lightning.turns import Turns, TurnSchedules
from rollforge.objectives.base import Clips, Objective
from rollforge.objectives.multigrid import Multigrid, takes_crops
from rollforge.pipeline import Pipeline
from rollforge.prediction import is_sharded
from rollforge.training_budget import Recipe

log = logging.getLogger(__name__)

CRITIC = "critic."
"""What the names of a critic's weights begin with in a checkpoint."""
FINISH = "finish."
"""The same of the stage after the codec, which only a checkpoint of its own training has."""


class TrainedModule(LightningModule):
    """Trains one part of a model by its objective."""

    pipeline: Pipeline
    backbone: Backbone
    conditioner: Conditioner
    codec: VideoCodec
    objective: Objective | None
    optimizer: OptimizerCallable
    scheduler: LRSchedulerCallable | None
    multigrid: Multigrid | None

    def __init__(self) -> None:
        super().__init__()
        self.average: Average | None = None
        self.multigrid = None
        self.rate = 1.0  # of the learning rate, in the step at work
        self.loaded: dict[str, Any] = {}  # from a checkpoint, until the first batch
        self.logged: list[str] = []  # names of the losses of the last batch

    @property
    def trained(self) -> nn.Module:
        """The part that ``fit`` trains."""
        if self.objective is None:
            raise UserError("fit needs model.objective, the loss to train with, and the config names none.")
        if self.objective.trains == "finish" and self.pipeline.finish is None:
            raise UserError(
                f"{type(self.objective).__name__} trains model.finish, the stage after the codec, and there is none."
            )
        return self.get_submodule(self.objective.trains)

    @property
    def networks(self) -> list[nn.Module]:
        """The networks of the model; the stage ``finish`` only where it is trained, or nothing is."""
        finish = self._modules.get("finish")
        return [self.backbone, self.codec, self.conditioner, *([] if finish is None else [finish])]

    @property
    def turn(self) -> str:
        """The network that is trained at this step: ``student``, or ``critic`` where the objective has one."""
        return "critic" if self.objective is not None and self.objective.trains_critic else "student"

    @property
    def learning(self) -> nn.Module:
        """The same, as a module."""
        assert self.objective is not None
        critic = self.objective.critic if self.turn == "critic" else None
        return self.trained if critic is None else critic

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
        for part in self.networks:
            part.train(part is self.trained)
        if self.objective.teacher is not None:
            self.objective.teacher.eval().requires_grad_(False)
        with attribute_errors("objective", self.objective, f"at step {self.global_step}"):
            self.objective.step = self.global_step
            self._take_turns()
            self.objective.average = None if self.average is None else self.average.module
            losses = check_losses(
                self.objective, self.objective(self.pipeline, self._cut(batch)), f"at step {self.global_step}"
            )
        self.logged = [*losses]
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()}, sync_dist=True)
        self.log("loss", losses["loss"].detach(), prog_bar=True, logger=False)
        return losses["loss"] / self._gathered()[1]

    def _gathered(self) -> tuple[int, int]:
        """What the objective says of this step. Raises ``UserError`` where gradients cannot be kept between steps."""
        assert self.objective is not None
        number, count = self.objective.gathered
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if count > 1 and (scaled or is_sharded(self.learning)):
            raise UserError(
                "Gradients of two networks are added up over steps neither where they are scaled (16-mixed) nor where "
                "they are sharded; set accumulate and critic_accumulate of the objective to 1."
            )
        return number, count

    def _cut(self, batch: Clips) -> Clips:
        """The clips of this step, as ``multigrid`` has them; the learning rate of the step follows their number."""
        assert self.objective is not None
        batch = self.objective.prepare(self.pipeline, batch)
        if self.multigrid is None:
            return batch
        clips = self.multigrid.clips(self.objective, self.pipeline, batch, self.global_step)
        cropped = takes_crops(self.objective, self.pipeline)
        self.rate = self.multigrid.factor(len(batch["caption"]), len(clips["caption"]), cropped)
        return clips

    def _take_turns(self) -> None:
        """Of two networks only the one whose turn it is has gradients."""
        if self.objective is not None and (critic := self.objective.critic) is not None:
            for network in (critic.train(), self.trained):
                set_trained(network, network is self.learning)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips as the Trainer says; the critic's gradients as the objective does. Logs their norm before."""
        if self.objective is None or self.objective.critic is None:
            gradients = [weight.grad for weight in self.trained.parameters() if weight.grad is not None]
            self._log_norm("grad_norm", torch.nn.utils.get_total_norm(gradients))
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        number, count = self.objective.gathered
        if number + 1 < count:
            return
        largest = self.objective.critic_clip if self.turn == "critic" else gradient_clip_val
        weights = [weight for weight in self.learning.parameters() if weight.grad is not None]
        if gradient_clip_algorithm == "value" and self.turn != "critic" and largest:
            torch.nn.utils.clip_grad_value_(weights, largest)
            largest = None
        norm = torch.nn.utils.clip_grad_norm_(weights, largest or torch.inf)
        self._log_norm(f"grad_norm_{self.turn}", norm)

    def _log_norm(self, name: str, norm: Tensor) -> None:
        self.logged.append(name)
        self.log(f"train/{name}", norm)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        with self._scaled_rate(optimizer, optimizer_closure) as closure:
            super().optimizer_step(epoch, batch_idx, optimizer, closure)
        # here and not after the batch, when callbacks have saved their checkpoint already
        if self.average is None or self.objective is None or self.turn == "critic":
            return
        number, count = self.objective.gathered
        if number + 1 == count:
            self.average.update_at(self.objective.step, self.trained)

    @contextmanager
    def _scaled_rate(self, optimizer: Any, closure: Callable[[], Any] | None) -> Iterator[Callable[[], Any] | None]:
        """The closure of a step, after which the learning rate is that of the step; then it is what it was."""
        if self.multigrid is None or closure is None:
            yield closure
            return
        kept = [group["lr"] for group in optimizer.param_groups]

        def scaled() -> Any:
            loss = closure()  # runs training_step, which finds out the rate
            for group, rate in zip(optimizer.param_groups, kept, strict=True):
                group["lr"] = rate * self.rate
            return loss

        try:
            yield scaled
        finally:
            for group, rate in zip(optimizer.param_groups, kept, strict=True):
                group["lr"] = rate

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if isinstance(scheduler, TurnSchedules):
            scheduler.step()
            return
        with attribute_errors("scheduler", scheduler, f"at step {self.global_step}"):
            super().lr_scheduler_step(scheduler, metric)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["random_state"] = random_state()
        if self.objective is not None and (state := self.objective.state_dict()):
            checkpoint["objective"] = state
        if not self._has_pending_gradients():
            return
        checkpoint["gradients"] = {
            name: weight.grad for name, weight in self.learning.named_parameters() if weight.grad is not None
        }

    def _has_pending_gradients(self) -> bool:
        """Whether a step of an optimizer waits for gradients that are alike in all processes."""
        if not between_steps(self.trainer):
            return self.trainer.world_size == 1
        if self.objective is None:
            return False
        self.objective.step = self.global_step
        return self.objective.gathered[0] > 0

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
        if is_adapted(weights) and not is_adapted(self.state_dict()):
            plain_weights = merged(weights)
            weights.clear()
            weights |= plain_weights
        self.rename(weights)
        own = {name: value for name, value in self.state_dict().items() if name.startswith((CRITIC, FINISH))}
        for name in [name for name in weights if name.startswith((CRITIC, FINISH)) and name not in own]:
            del weights[name]
        weights |= {name: value for name, value in own.items() if name.startswith(CRITIC) or name not in weights}
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
        if gradients := loaded.get("gradients"):
            assert self.objective is not None
            self.objective.step = self.global_step
        for name, gradient in (gradients or {}).items():
            weight = self.learning.get_parameter(name)
            weight.grad = gradient.to(weight)

    def configure_optimizers(self) -> Any:
        optimizer, schedule = self._optimizer("model.", self.optimizer, self.scheduler, self.trained)
        objective = self.objective
        if objective is not None and objective.critic is not None:
            makers = objective.critic_optimizer, objective.critic_scheduler
            critic, own = self._optimizer("model.objective.init_args.critic_", *makers, objective.critic)
            both = {"student": optimizer, "critic": critic}
            optimizer = Turns(both, lambda: self.turn, lambda: objective.gathered)
            found = {"student": schedule, "critic": own}
            schedules = {name: each for name, each in found.items() if each is not None}
            schedule = TurnSchedules(schedules, optimizer) if schedules else None
        if schedule is None:
            return optimizer
        monitor = getattr(schedule, "monitor", "loss")  # of a plateau schedule; torch's own class names none
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step", "monitor": monitor},
        }

    def _optimizer(
        self, key: str, optimizer: Callable[..., Optimizer], scheduler: Callable[..., Any] | None, network: nn.Module
    ) -> tuple[Optimizer, Any]:
        """The optimizer of a network, and its schedule, which the config names under keys that begin with ``key``."""
        with _made(f"{key}optimizer"):
            made = optimizer(trainable(network))
        representable_epsilon(made)
        if scheduler is None:
            return made, None
        with _made(f"{key}scheduler"):
            return made, scheduler(made)


@contextmanager
def _made(name: str) -> Iterator[None]:
    """Around the making of an optimizer or a schedule, whose key it gets.

    Raises ``UserError`` for arguments that it does not take.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or ran_out(error):
            raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(f"{name} cannot be made ({first}); give it what it needs in its init_args.") from error


def plain(name: str) -> str:
    """The name of a weight, whether ``torch.compile`` has wrapped its network or not."""
    return name.replace("_orig_mod.", "")
