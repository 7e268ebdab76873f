"""The command line of one of Lightning's subcommands, read and checked as there; nothing is built or run."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

from rollforge.commands.lightning import RollforgeCLI
from rollforge.commands.ranks import Ranks
from rollforge.commands.typed import Typed


class ParsedCLI(RollforgeCLI):
    """What ``command`` would run with a command line; ``chosen`` is the config.

    To be used in ``trust.guarded``.
    """

    def __init__(self, command: str, typed: Typed) -> None:
        super().__init__(command, typed, Ranks(), ExitStack())

    def read(self, typed: Typed) -> dict[str, Any]:
        """The resolved config of the same command with other arguments: building the parser is what takes long."""
        return self.resolved(self.parse(typed))

    def instantiate_classes(self) -> None:
        """Leaves that to the caller, part by part."""
        self.trainer: Any = SimpleNamespace(global_rank=0)

    def _set_seed(self) -> None:
        """Draws nothing, so needs no seed."""
