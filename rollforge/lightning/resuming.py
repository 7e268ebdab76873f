"""How training saves and restores: complete checkpoints in the run folder alone, settled between two steps."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from copy import deepcopy
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer

from rollforge.errors import UserError, ran_out
from rollforge.files.reading import open_regular
from rollforge.files.writing import PARTIAL, make_folder, replacing, sync

FORMER = ".former"
"""How the name of a sharded checkpoint ends while a newer one takes its place."""
RESTORING = ("resume_start", "restore_datamodule", "restore_model", "restore_callbacks", "restore_training_state")
"""Methods of Lightning's checkpoint connector."""
STAGES = ("ready", "started", "processed", "completed")


class RunCheckpoints(TorchCheckpointIO):
    """Writes checkpoint files for Lightning, complete or not at all, and below ``folder`` only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a complete file or none. Raises ``UserError`` where that cannot be."""
        check_inside(path, self.folder, "A checkpoint")
        file = Path(path)
        make_folder(file.parent)
        with replacing(file) as partial, partial.open("wb") as opened:
            torch.save(checkpoint, opened)


def check_inside(path: Any, folder: Path, what: str) -> None:
    """Raises ``UserError`` for a path that is not below ``folder``."""
    if not _is_inside(Path(path), folder):
        raise UserError(
            f"{what} would be written to {path}, outside of the run folder {folder}; leave its dirpath out, or name a "
            "folder below the run folder."
        )


def _is_inside(path: Path, folder: Path) -> bool:
    return "://" not in str(path) and path.resolve().is_relative_to(folder.resolve())


def check_checkpoint(path: str) -> None:
    """Raises ``UserError`` for a checkpoint that is not there, is empty or may not be read, or is a weights file."""
    file = Path(path)
    advice = "give --ckpt_path a checkpoint of rollforge fit, such as last.ckpt in its run folder"
    try:
        if file.is_dir():
            if not (file / ".metadata").is_file():
                raise UserError(f"The checkpoint {path} is a folder, and not of a sharded checkpoint; {advice}.")
            return
        with open_regular(file) as opened:
            start = opened.read(16)
    except FileNotFoundError as error:
        raise UserError(f"There is no checkpoint {path}; {advice}.") from error
    except OSError as error:
        raise UserError(f"The checkpoint {path} cannot be read ({error.strerror}); {advice}.") from error
    if not start:
        raise UserError(f"The checkpoint {path} is empty; {advice}.")
    if file.suffix == ".safetensors" or start[8:9] == b"{":
        raise UserError(
            f"{path} is a weights file, not a checkpoint; {advice}, or name it in model.backbone.init_args.weights."
        )


def explain_restoring(trainer: Trainer) -> None:
    """From now on, a checkpoint that does not fit raises ``UserError`` with the first line of the reason."""
    connector = trainer._checkpoint_connector
    for name in RESTORING:
        setattr(connector, name, _explained(getattr(connector, name), trainer))


def _explained(restore: Callable[..., None], trainer: Trainer) -> Callable[..., None]:
    @wraps(restore)
    def explained(*arguments: Any, **options: Any) -> None:
        try:
            restore(*arguments, **options)
        except Exception as error:
            if isinstance(error, UserError) or ran_out(error):
                raise
            reason = str(error.args[0] if error.args else "").strip() or type(error).__name__
            raise UserError(
                f"The checkpoint {trainer.ckpt_path or (arguments or ['?'])[0]} is damaged, or is not of this config "
                f"({reason.splitlines()[0].rstrip('.')}); take one that rollforge fit wrote for this config."
            ) from error

    return explained


def between_steps(trainer: Trainer) -> bool:
    """Whether no gradients are being accumulated."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    done = progress.current.processed
    return done % trainer.accumulate_grad_batches == 0 or (progress.is_last_batch and done == progress.current.ready)


def settled(loops: dict[str, Any]) -> dict[str, Any]:
    """The state of Lightning's fit loop as it is between two batches, whichever hook it was saved in.

    Batches count as done once their optimizer step is: a checkpoint written at the end of a batch or of an epoch holds
    the one before as its last otherwise. An epoch that ended before its last batch, because ``max_steps`` was reached,
    is not over: training for more steps continues it.
    """
    loops = deepcopy(loops)
    batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
    done = batches["current"]["processed"]
    over = batches["is_last_batch"] and done == batches["current"]["ready"]
    _count(batches["current"], 0 if over else done)
    _count(batches["total"], batches["total"]["processed"])
    batches["is_last_batch"] = False
    for progress in (epochs["current"], epochs["total"]):
        started = progress["ready"]
        unfinished = not over and (done > 0 or progress["processed"] < started)
        _count(progress, started - int(unfinished))
        progress["ready"] = progress["started"] = started
    steps = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"]
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = steps
    return loops


def _count(progress: dict[str, Any], number: int) -> None:
    progress.update(dict.fromkeys(STAGES, number))


def replace_sharded(partial: Path, folder: Path) -> None:
    """Gives a sharded checkpoint its final name, in place of an older one."""
    for file in partial.rglob("*"):
        sync(file)
    former = folder.with_name(folder.name + FORMER)
    shutil.rmtree(former, ignore_errors=True)
    if folder.is_dir():
        folder.rename(former)
    elif folder.exists():
        folder.unlink()
    partial.rename(folder)
    sync(folder.parent)
    shutil.rmtree(former, ignore_errors=True)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run folder, if there is one. A kill between two names of a sharded one is undone."""
    path = folder / "last.ckpt"
    former = path.with_name(path.name + FORMER)
    if not path.exists() and former.is_dir():
        former.rename(path)
    return path if path.exists() else None


def partial_of(path: Path) -> Path:
    """The name that a checkpoint has until it is complete."""
    return path.with_name(path.name + PARTIAL)
