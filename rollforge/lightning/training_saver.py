"""When a training run saves and stops: between two optimizer steps, with everything of the steps before done."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from rollforge import __version__
from rollforge.files.writing import NotWritten, write_json
from rollforge.lightning.resuming import between_steps, partial_of, replace_sharded
from rollforge.lightning.training_report import TrainingReport
from rollforge.signals import SignalHandler

log = logging.getLogger(__name__)

LAST = "last.ckpt"
PROGRESS = "training.json"


class TrainingSaver(Callback):
    """Writes reports and ``last.ckpt``, and ends the training after a signal once it is saved.

    It must come first among the callbacks. It saves when a batch starts: the schedules, the callbacks and the
    epoch end of the previous batch are done by then, so that a resumed training continues with exactly the same state.

    Args:
        folder: the run folder.
        every: optimizer steps between two reports.
        report: what is written with each checkpoint.
        stop: the signals.
        highest: the highest of the numbers that the processes of the run call it with.
    """

    def __init__(
        self, folder: Path, every: int, report: TrainingReport, stop: SignalHandler, highest: Callable[[int], int]
    ) -> None:
        self.folder, self.every, self.report, self.stop, self.highest = folder, every, report, stop, highest
        self.saved = self.started = self.reported = 0  # steps
        self.saving = 0.0  # seconds that it took
        self.start = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        return {"reported": self.reported}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.reported = state_dict["reported"]

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Listens to signals in place of Lightning, which has set its own handlers by now."""
        connector: Any = trainer._signal_connector
        connector.received_sigterm = False  # of a signal before this moment, which is in ``stop`` too
        self.stop.install()
        self.saved = self.started = trainer.global_step
        self.start = time.perf_counter()
        self._note(trainer, complete=False, step=trainer.global_step or None)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        pl_module.continue_from_checkpoint()
        for callback in trainer.callbacks:  # type: ignore[attr-defined] # Lightning adds it
            if isinstance(callback, GradientAccumulationScheduler):  # Lightning leaves its hook out in a resumed epoch
                callback.on_train_epoch_start(trainer)
        if not between_steps(trainer):
            return
        step = trainer.global_step
        self.stop.due = (time.perf_counter() - self.start) / max(1, step - self.started) + self.saving
        asked = self.highest(self.stop.asked or 0)
        if asked:
            self._save(trainer)
            raise SystemExit(128 + asked)
        if step % self.every == 0 and step > self.reported:  # also where a signal came before the report
            self._due(trainer, pl_module)

    def finish(self, trainer: Trainer, module: Any) -> None:
        """The last report and the last checkpoint. A signal that came meanwhile changes nothing: all is done."""
        if trainer.global_step:
            self.report.report(trainer, module, last=True)
        self._save(trainer)
        self._note(trainer, complete=True, step=trainer.global_step)

    def _due(self, trainer: Trainer, module: Any) -> None:
        """A report and a checkpoint. If they cannot be written, training continues and the previous ones stay."""
        self.reported = trainer.global_step
        try:
            self.report.report(trainer, module)
            self._save(trainer)
        except NotWritten as error:
            if trainer.world_size > 1:  # the others would wait
                raise
            self.saved = trainer.global_step
            log.warning("%s Training continues; the last checkpoint is that of the last report.", error)

    def _save(self, trainer: Trainer) -> None:
        """Writes ``last.ckpt`` atomically."""
        if trainer.global_step == self.saved:
            return
        began = time.perf_counter()
        path = self.folder / LAST
        partial = partial_of(path)
        sharded = getattr(trainer.strategy, "_save_distributed_checkpoint", False)
        trainer.save_checkpoint(partial if sharded else path)
        if trainer.is_global_zero and sharded:
            replace_sharded(partial, path)
        trainer.strategy.barrier()
        self.saved, self.saving = trainer.global_step, time.perf_counter() - began
        self._note(trainer, complete=False, step=self.saved)

    def _note(self, trainer: Trainer, complete: bool, step: int | None) -> None:
        """Records the step of ``last.ckpt``, and whether training is over."""
        if trainer.is_global_zero:
            write_json(
                self.folder / PROGRESS,
                {"rollforge": __version__, "complete": complete, "step": step},
            )


class TrainingEnd(Callback):
    """Saves when training is over. It must come last: other callbacks may change the weights at the end."""

    def __init__(self, saver: TrainingSaver) -> None:
        self.saver = saver

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.saver.finish(trainer, pl_module)
