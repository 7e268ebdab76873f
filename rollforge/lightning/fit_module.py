"""A LightningModule that ``fit`` trains in place of a video model: the base class of those in plugins."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rollforge.backbones.weights import check_fit
from rollforge.borders import check_losses
from rollforge.errors import UserError, attribute_errors
from rollforge.lightning.random_state import random_state, restore_random_state
from rollforge.lightning.resuming import settled
from rollforge.objectives.base import Clips

log = logging.getLogger(__name__)

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeSchedule = Callable[[Optimizer], LRScheduler]


class FitModule(LightningModule, ABC):
    """Trains networks of its own with ``rollforge fit``: ``model: {class_path: ..., init_args: {...}}``.

    Run folder, checkpoints, resuming, loss curve and data are those of any training. ``losses`` says what to minimise.
    """

    trains = "network"
    """The attribute with the network that is written as ``<trains>.safetensors``."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[str] = []  # names of the losses of the last batch
        self.random: Any = None  # from a checkpoint, until the first batch

    @abstractmethod
    def losses(self, clips: Clips) -> dict[str, Tensor]:
        """Named scalars of a batch; ``loss`` is the one to minimise, the others are logged."""

    def check(self, clip: Mapping[str, Any]) -> None:
        """Raises ``UserError`` for a clip that cannot be trained on; called with the first one. Default: takes any.

        The Trainer is known by then.
        """

    @property
    def trained(self) -> nn.Module:
        """The network that is kept after training."""
        return self.get_submodule(self.trains)

    @property
    def steps(self) -> int:
        """Steps of the training. Raises ``UserError`` where ``trainer.max_steps`` does not say how many."""
        if self.trainer.max_steps < 1:
            raise UserError(
                f"{type(self).__name__} changes its learning rate over the whole training; say how long it is with "
                "trainer.max_steps."
            )
        return self.trainer.max_steps

    @property
    def progress(self) -> float:
        """The share of the training that is done, from 0 to 1; 0 where its length is not known."""
        return self.global_step / steps if (steps := self.trainer.max_steps) > 0 else 0.0

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Nothing is averaged here; for reports."""
        yield

    def training_step(self, batch: Clips, batch_idx: int) -> Tensor:
        where = f"at step {self.global_step}"
        with attribute_errors("module", self, where):
            losses = check_losses(self, self.losses(batch), where)
        self.logged = [*losses]
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()}, sync_dist=True)
        self.log("loss", losses["loss"].detach(), prog_bar=True, logger=False)
        return losses["loss"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["random_state"] = random_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        where = self.trainer.ckpt_path or "the checkpoint"
        check_fit(self.state_dict(), checkpoint["state_dict"], type(self).__name__, where)
        checkpoint["loops"]["fit_loop"] = settled(checkpoint["loops"]["fit_loop"])
        self.random = checkpoint.get("random_state")

    def continue_from_checkpoint(self) -> None:
        """Restores the random state before the first batch after a checkpoint was loaded."""
        state, self.random = self.random, None
        if state is not None:
            restore_random_state(state)

    def on_train_batch_start(self, batch: Clips, batch_idx: int) -> None:
        self.continue_from_checkpoint()
