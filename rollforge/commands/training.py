"""``fit`` in a run folder: what surrounds Lightning's loop, and which checkpoint it continues from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, RichProgressBar, TQDMProgressBar

from rollforge.commands.ranks import Ranks
from rollforge.errors import UserError
from rollforge.files.reading import MANIFEST, read_json
from rollforge.lightning.callbacks import attribute
from rollforge.lightning.precision import device_problem
from rollforge.lightning.resuming import (
    RunCheckpoints,
    check_checkpoint,
    check_inside,
    explain_restoring,
    last_checkpoint,
)
from rollforge.lightning.training_report import TrainingReport
from rollforge.lightning.training_saver import PROGRESS, TrainingEnd, TrainingSaver
from rollforge.report.curve import LossCurve
from rollforge.signals import SignalHandler


class Training:
    """One training.

    Args:
        trainer: Lightning's.
        folder: the run folder.
        own: the callbacks that the config names.
        every: steps between two reports.
        ranks: the processes of the run.
        reference: a loss curve to draw under that of the training.
    """

    def __init__(
        self,
        trainer: Trainer,
        folder: Path,
        own: Sequence[Callback],
        every: int,
        ranks: Ranks,
        reference: LossCurve | None = None,
    ) -> None:
        self.trainer, self.folder, self.stop = trainer, folder, SignalHandler("step")
        self.stop.quiet = trainer.global_rank > 0
        check_precision(trainer)
        check_inside(trainer.default_root_dir, folder, "What trainer.default_root_dir is for")
        trainer.strategy.checkpoint_io = RunCheckpoints(folder)
        explain_restoring(trainer)
        for callback in own:
            attribute(callback)
            if isinstance(callback, Checkpoint):
                _place(callback, folder)
        report = TrainingReport(folder, reference)
        saver = TrainingSaver(folder, every, report, self.stop, ranks.highest)
        kept = [_plain_bar(each, own) for each in trainer.callbacks if not _stray(each, own)]  # type: ignore[attr-defined]
        trainer.callbacks = [saver, report, *kept, TrainingEnd(saver)]  # type: ignore[attr-defined]

    def checkpoint(self, given: str | None, resume: bool, overwrite: bool) -> str | None:
        """The checkpoint to continue from.

        Args:
            given: the one that the user names.
            resume: whether to continue what the run folder holds, where it holds something.
            overwrite: whether to start over.

        Raises:
            UserError: where training would start over although one was interrupted, and nothing says so.
        """
        complete, step = self._progress()
        last = last_checkpoint(self.folder) if step != 0 else None
        if resume and last:
            check_checkpoint(str(last))
            return str(last)
        if given is None and last and not complete and not overwrite:
            raise UserError(
                f"{self.folder} holds a training that was interrupted; add --resume to continue it, or --overwrite "
                "true to start over."
            )
        return given

    def run(self, **options: Any) -> None:
        """Trains. Raises ``SystemExit`` after a signal, once all is saved."""
        self.stop.install()  # Lightning's own handler swallows the signal; it comes to ours too
        try:
            self.trainer.fit(**options)
        except MisconfigurationException as error:
            raise UserError(f"This config cannot be trained: {' '.join(str(error).split()).rstrip('.')}.") from error

    def _progress(self) -> tuple[bool, int | None]:
        """Whether the training in the folder is complete, and the step of its checkpoint: 0 if there is none yet."""
        file = self.folder / PROGRESS
        if not file.exists():
            return True, None  # nothing, or of a version that did not say
        try:
            noted = read_json(file, MANIFEST, "file")
            return bool(noted["complete"]), int(noted["step"] or 0)
        except (UserError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is damaged ({error}); remove it, or choose another --output_dir.") from error


def check_precision(trainer: Trainer) -> None:
    """Raises ``UserError`` for a precision that the device does not have."""
    if problem := device_problem(str(trainer.precision), trainer.strategy.root_device):
        raise UserError(f"{problem}.")


def _place(callback: Any, folder: Path) -> None:
    """Checkpoints of a callback go into the run folder. Raises ``UserError`` where it names another."""
    if callback.dirpath is None:
        callback.dirpath = str((folder / "checkpoints").resolve())
    check_inside(callback.dirpath, folder, f"A checkpoint of {type(callback).__name__}")


def _stray(callback: Callback, own: Sequence[Callback]) -> bool:
    """Whether it is the checkpoint callback that Lightning adds by itself."""
    return isinstance(callback, ModelCheckpoint) and not any(callback is each for each in own)


def _plain_bar(callback: Callback, own: Sequence[Callback]) -> Callback:
    """A progress bar for any terminal in place of the rich one that Lightning adds by itself."""
    rich = isinstance(callback, RichProgressBar) and not any(callback is each for each in own)
    return TQDMProgressBar() if rich else callback
