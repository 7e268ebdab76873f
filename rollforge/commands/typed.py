"""What only the command line can say: what is trusted besides, and whether checkpoints may run code.

These options never reach the parser of configs, so that no config can give them in any way.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rollforge.commands.arguments import Arguments
from rollforge.errors import UserError
from rollforge.trust import OPTION, VARIABLE

WEIGHTS_ONLY = "--weights_only"
YES, NO = ("true", "yes", "1"), ("false", "no", "0")
ADDRESS = re.compile(r"[\w+.-]+://[^\s\"',\]}]*")


@dataclass(frozen=True)
class Typed:
    """A command line, read.

    Args:
        modules: what is trusted besides.
        weights_only: whether checkpoints are read as tensors and plain data only.
        rest: the other arguments, for the parser of configs.
        arguments: all of them.
    """

    modules: tuple[str, ...]
    weights_only: bool
    rest: list[str]
    arguments: list[str]

    @property
    def values(self) -> set[str]:
        """Every value that was typed, and every address within one."""
        found = {argument.partition("=")[2] or argument for argument in self.rest}
        return found | {address for argument in self.rest for address in ADDRESS.findall(argument)}

    def resumed(self) -> list[str]:
        """The arguments of the same command that resumes: without those that would start it again."""
        parser = Arguments(prog="rollforge", add_help=False)
        parser.add_argument("--overwrite", nargs="?")
        parser.add_argument("--resume", "--no_resume", nargs="?")
        return [*parser.parse_known_args(self.arguments)[1], "--resume"]


def read(arguments: Sequence[str]) -> Typed:
    """Takes ``--trust``, ``ROLLFORGE_TRUST`` and ``--weights_only`` from a command line.

    Raises ``UserError`` for a name that is not a module's, and for a value that is neither true nor false.
    """
    parser = Arguments(prog="rollforge", add_help=False)
    parser.add_argument(OPTION, action="append", default=[os.environ.get(VARIABLE, "")])
    parser.add_argument(WEIGHTS_ONLY, default="true")
    chosen, rest = parser.parse_known_args(arguments)
    if (weights_only := chosen.weights_only.lower()) not in (*YES, *NO, "null"):
        raise UserError(f"{WEIGHTS_ONLY} must be true or false, not {chosen.weights_only!r}.")
    modules = tuple(dict.fromkeys(name.strip() for name in ",".join(chosen.trust).split(",") if name.strip()))
    for module in modules:
        if not all(step.isidentifier() for step in module.split(".")) or module.split(".")[0] == "jsonargparse":
            raise UserError(f"{module!r} cannot be trusted; {OPTION} takes names of modules such as my_package.parts.")
    return Typed(modules, weights_only not in NO, rest, list(arguments))
