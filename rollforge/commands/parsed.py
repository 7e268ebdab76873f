"""The command line of one of Lightning's subcommands, read and checked as there; nothing is built or run."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

from rollforge.commands.lightning import DEFAULTS, RollforgeCLI
from rollforge.commands.mistakes import Parser
from rollforge.commands.ranks import Ranks
from rollforge.data.module import RolloutData
from rollforge.module import RolloutModule


class ParsedCLI(RollforgeCLI):
    """What ``command`` would run with these arguments; ``chosen`` is the config.

    To be used where ``trust`` guards and ``check_files`` has looked.
    """

    def __init__(self, command: str, arguments: list[str]) -> None:
        self.command = command
        super().__init__(
            Ranks(), ExitStack(), RolloutModule, RolloutData, args=[command, *arguments], parser_class=Parser,
            save_config_callback=None, auto_configure_optimizers=False, seed_everything_default=0,
            trainer_defaults={**DEFAULTS, "enable_progress_bar": False},
        )  # fmt: skip

    def read(self, arguments: list[str]) -> dict[str, Any]:
        """The resolved config of the same command with other arguments: building the parser is the dear part."""
        return self.resolved(self.parser.parse_args([self.command, *arguments]))

    def instantiate_classes(self) -> None:
        """Leaves that to whoever asks, part by part."""
        self.trainer: Any = SimpleNamespace(global_rank=0)

    def _set_seed(self) -> None:
        """Draws nothing, so needs no seed."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Leaves it be."""
