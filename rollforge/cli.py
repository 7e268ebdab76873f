"""The command. ``rollforge --help`` and unknown commands do not import torch."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from rollforge import __version__
from rollforge.commands import COMMANDS
from rollforge.commands.arguments import Arguments
from rollforge.commands.output import log_to_terminal, print_error
from rollforge.errors import UserError, nearest, of_the_machine
from rollforge.files.streams import tolerant
from rollforge.isolation import import_matplotlib, safe_environment
from rollforge.renamed import renamed_arguments

if TYPE_CHECKING:
    from rollforge.registry import PluginCommand

log = logging.getLogger(__name__)

INTERRUPTED = 128 + signal.SIGINT
Command = Callable[[list[str]], int | None]


def _lightning(name: str) -> Command:
    def command(arguments: list[str]) -> int:
        code: int = _module("fit_other").run(arguments) if name == "fit" else _module("lightning").run(name, arguments)
        return code

    return command


def _test(arguments: list[str]) -> int:
    code: int | None = _module("scoring").run(arguments)
    return (_lightning("test")(arguments) or 0) if code is None else code


def _of(name: str) -> Command:
    """One of our commands; its module, of the same name if it has one of its own, is imported when it is run."""
    if name in ("predict", "fit"):
        return _lightning(name)
    if name == "test":
        return _test

    def command(arguments: list[str]) -> int | None:
        code: int | None = _module(name).run(arguments)
        return code

    return command


def _module(name: str) -> ModuleType:
    """A module of commands.

    Python looks for garbage neither while it is imported, which takes a sixth of the start of a command, nor later in
    what the import has made.
    """
    if (path := f"rollforge.commands.{name}") in sys.modules:
        return sys.modules[path]
    enabled = gc.isenabled()
    gc.disable()
    try:
        return import_module(path)
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


LIGHT = ("plugins",)
"""Commands that import no component before they know that they must."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command: those of the process unless given. Errors of the user exit with 2, an interrupt with 130."""
    if arguments is None:
        os.environ.update(safe_environment())
        with tolerant():
            code = _run(sys.argv[1:])
            if code == INTERRUPTED:
                signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends the process without a traceback
            return code
    return _run(list(arguments))


def _run(given: list[str]) -> int:
    log_to_terminal()
    try:
        return _dispatch(renamed_arguments(given)) or 0
    except UserError as error:
        print_error(f"rollforge: {error}\n")
        return 2
    except (OSError, MemoryError, RuntimeError) as error:
        if (message := of_the_machine(error)) is None:
            raise
        log.debug("The traceback:", exc_info=True)
        print_error(f"rollforge: {message}\n")
        return 2
    except KeyboardInterrupt:
        print_error("rollforge: interrupted.\n")
        return INTERRUPTED


def _dispatch(given: list[str]) -> int | None:
    """Runs the command that is named; the exit code is 0 if it returns None."""
    added = {} if given and given[0] in COMMANDS else _added()
    texts = COMMANDS | {name: command.described for name, command in added.items()}
    parser = Arguments(
        prog="rollforge",
        description="Train short, roll forever: long-horizon autoregressive video diffusion.",
        epilog="commands:\n" + "\n".join(f"  {name:12} {text}" for name, text in texts.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rollforge {__version__}")
    parser.add_argument("command", nargs="?", help="one of the commands below; each has its own --help")
    known = parser.parse_args(given[:1])
    if known.command is None:
        parser.print_help()
    elif known.command not in texts:
        names = ", ".join(texts)
        raise UserError(f"There is no command {known.command!r}.{nearest(known.command, texts)} Commands: {names}.")
    else:
        if known.command not in LIGHT:
            import_matplotlib()
        return (added.get(known.command) or _of(known.command))(given[1:])
    return None


def _added() -> dict[str, PluginCommand]:
    """The commands of installed plugins."""
    from rollforge.registry.commands import plugin_commands  # brings pluggy, which other commands may do without

    return plugin_commands(COMMANDS)
