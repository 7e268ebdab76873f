"""Options that only the command line can set: trusted modules, and whether checkpoints may run code.

These options never reach the parser of configs, so that no config can give them in any way.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rollforge.commands.arguments import Arguments
from rollforge.errors import UserError
from rollforge.trust.imports import OPTION, VARIABLE

WEIGHTS_ONLY = "--weights_only"
AGAIN = (("--overwrite",), ("--resume", "--no_resume"))
"""Options that would start a run again."""
YES, NO = ("true", "yes", "1"), ("false", "no", "0")
ADDRESS = re.compile(r"[\w+.-]+://[^\s\"',\]}]*")


@dataclass(frozen=True)
class Typed:
    """A command line, read.

    Args:
        modules: further modules that are trusted.
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
        return [*self._without(*AGAIN), "--resume"]

    def longer(self, seconds: float, output_dir: str) -> list[str]:
        """The arguments of the same command for videos of that many seconds, into another folder."""
        kept = self._without(*AGAIN, ("--force", "--no_force"), ("--data.seconds",), ("--output_dir",))
        return [*kept, "--data.seconds", f"{seconds:g}", "--output_dir", output_dir]

    def _without(self, *options: tuple[str, ...]) -> list[str]:
        """The arguments but for those options, whose names are alternatives."""
        parser = Arguments(prog="rollforge", add_help=False)
        for names in options:
            parser.add_argument(*names, nargs="?")
        return parser.parse_known_args(self.arguments)[1]


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
