"""A run removes its own checkpoints and nothing else, whatever a checkpoint or a config says."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from torch.distributed.checkpoint.api import CheckpointException

from rollforge.errors import UserError
from rollforge.files import sharded

log = logging.getLogger(__name__)

URL = re.compile(r"://|^[\w+.-]+::")
NAMES = re.compile(r"path|dir|file|folder")
"""In the keys of a callback's state: what follows is a path."""


class OwnFiles(Callback):
    """Drops the paths in a checkpoint that are not of this run, and removes no checkpoint that is not.

    Lightning removes, with all that is in it, what a checkpoint names as the one before, and what a config names as the
    place of a checkpoint.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.saved: set[Path] = set()

    def watch(self, trainer: Trainer) -> None:
        """Stands between the trainer and its checkpoints from here on."""
        strategy: Any = trainer.strategy
        strategy.save_checkpoint = self._saving(strategy.save_checkpoint)
        strategy.load_checkpoint = self._loading(strategy.load_checkpoint)
        strategy.remove_checkpoint = self._removing(strategy.remove_checkpoint)
        trainer_callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        trainer_callbacks.insert(0, self)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Comes before the callbacks restore what the checkpoint holds for them."""
        checkpoint["callbacks"] = self.own(checkpoint.get("callbacks") or {})

    def own(self, state: Any, key: str = "") -> Any:
        """A state without the paths that lead out of the run folder."""
        if isinstance(state, dict):
            kept = {name: self.own(value, str(name)) for name, value in state.items()}
            return {
                name: value for name, value in kept.items() if not (isinstance(name, str) and self._leads_out(name))
            }
        if isinstance(state, list | tuple):
            return type(state)(self.own(each, key) for each in state)
        return "" if isinstance(state, str) and self._leads_out(state, NAMES.search(key) is not None) else state

    def _leads_out(self, text: str, path: bool = False) -> bool:
        """Whether a text is a path, or surely one, and not of the run folder."""
        if not (path or URL.search(text) or os.path.isabs(text)):
            return False
        return bool(text) and (URL.search(text) is not None or not self._inside(Path(text)))

    def _inside(self, path: Path) -> bool:
        return self.folder in path.resolve().parents

    def _saving(self, save: Callable[..., Any]) -> Callable[..., Any]:
        def saving(checkpoint: Any, filepath: Any, *arguments: Any, **options: Any) -> Any:
            self.saved.add(Path(filepath).resolve())
            return save(checkpoint, filepath, *arguments, **options)

        return saving

    def _loading(self, load: Callable[..., Any]) -> Callable[..., Any]:
        def loading(path: Any, *arguments: Any, **options: Any) -> Any:
            if options.get("weights_only") is not False and (Path(path) / sharded.FILE).is_file():
                sharded.check_folder(Path(path))
            try:
                return load(path, *arguments, **options)
            except CheckpointException as error:
                raise UserError(
                    f"The sharded checkpoint {path} cannot be read ({_first(error)}); take another."
                ) from error

        return loading

    def _removing(self, remove: Callable[..., Any]) -> Callable[..., Any]:
        def removing(filepath: Any) -> None:
            path = Path(filepath)
            own = path.resolve() in self.saved or (self._inside(path) and not URL.search(str(filepath)))
            if not own or path.is_symlink() or (path.is_dir() and not (path / sharded.FILE).is_file()):
                if path.exists():
                    log.warning("%s was not removed, since it is not a checkpoint of this run.", filepath)
                return
            remove(filepath)

        return removing


def _first(error: CheckpointException) -> str:
    """What went wrong in the first process in which something did."""
    failure = next(iter(error.failures.values()), None)
    return " ".join(str(failure[0] if failure else error).split())
