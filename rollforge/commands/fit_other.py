"""``fit`` of a LightningModule that a plugin brings, in place of a video model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from rollforge.commands.arguments import Arguments
from rollforge.commands.lightning import RollforgeCLI
from rollforge.commands.lightning import run as run_lightning
from rollforge.commands.training import check_precision
from rollforge.errors import UserError
from rollforge.files import safe_yaml
from rollforge.lightning.fit_module import FitModule
from rollforge.lightning.random_state import unchanged_random_state


class FitCLI(RollforgeCLI):
    """``fit`` with ``model: {class_path: ...}``: any ``FitModule``."""

    trains = FitModule
    gives_videos = False

    def instantiate_classes(self) -> None:
        """Model, data and Trainer. Raises ``UserError`` where the data are for a video model."""
        data = self.config.data
        if data.prompts or data.latent_cache:
            name = "prompts" if data.prompts else "latent_cache"
            raise UserError(
                f"data.{name} is for video models, and {self.config.model.class_path} is not one; leave it out."
            )
        super().instantiate_classes()

    def check_networks(self) -> None:
        """Nothing: the networks of a ``FitModule`` are known once it is built."""

    def before_fit(self) -> None:
        """Opens the run folder."""
        check_precision(self.trainer)
        clips = self.datamodule.training_clips
        self.model.trainer = self.trainer
        with unchanged_random_state():
            self.model.check(clips[0])
        self.explained = lambda kept: nullcontext()
        self._open_training()


def names_module(arguments: Sequence[str]) -> bool:
    """Whether a command line, or a config that it names, has ``model.class_path``."""
    parser = Arguments(prog="rollforge", add_help=False)
    parser.add_argument("--config", "-c", action="append", nargs="?", default=[])
    parser.add_argument("--model.class_path", "--model", dest="model", nargs="?")
    chosen, _ = parser.parse_known_args(list(arguments))
    return chosen.model is not None or any(_has_class(each) for each in chosen.config if each)


def _has_class(config: str) -> bool:
    with suppress(UserError, OSError):  # the parser says what is wrong
        content: Any = safe_yaml.read(Path(config).expanduser())
        model = content.get("model") if isinstance(content, dict) else None
        return isinstance(model, dict) and "class_path" in model
    return False


def run(arguments: list[str]) -> int:
    """Runs ``fit`` of a video model, or of what ``model.class_path`` names."""
    return run_lightning("fit", arguments, FitCLI if names_module(arguments) else RollforgeCLI)
