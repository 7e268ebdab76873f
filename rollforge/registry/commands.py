"""Commands of plugins: entry points of the group ``rollforge.commands``, each a function that takes the arguments.

They are found by their names alone. The module of one is imported when it is run, or listed by ``rollforge plugins``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import getdoc
from typing import Any

from rollforge.errors import UserError, ran_out
from rollforge.registry.guard import PluginError, guarded
from rollforge.registry.registry import GROUPS, allowed, check_api, origin_of

log = logging.getLogger(__name__)

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class PluginCommand:
    """One command of a plugin."""

    entry: EntryPoint

    @property
    def origin(self) -> str:
        """Its distribution, with the version."""
        return origin_of(self.entry)

    @property
    def described(self) -> str:
        """What its distribution says of itself; nothing is imported."""
        summary = (self.entry.dist.metadata["Summary"] if self.entry.dist else None) or "a command"
        return f"{summary} ({self.origin})"

    def load(self) -> Callable[[list[str]], Any]:
        """Its function. Raises ``PluginError`` where that cannot be imported or is not one."""
        with guarded(self.origin, _warn):
            function = self.entry.load()
            check_api(import_module(self.entry.module.partition(".")[0]))
            if not callable(function):
                raise PluginError(f"{self.entry.value} is {function!r:.60}; expected a function")
        return function

    def summary(self) -> str:
        """The first line of its docstring. Raises ``PluginError`` as ``load`` does."""
        return (getdoc(self.load()) or "").partition("\n")[0]

    def __call__(self, arguments: list[str]) -> int | None:
        """Runs it. Returns its exit code.

        Raises ``UserError`` for one that cannot be imported, raises an exception of its own, or returns something else.
        """
        who = f"The command {self.entry.name} of {self.origin}"
        try:
            function = self.load()
        except PluginError as error:
            raise UserError(f"{who} cannot be used ({error}); install another version of it, or remove it.") from error
        try:
            code = function(arguments)
        except (UserError, OSError):
            raise
        except Exception as error:
            if ran_out(error):
                raise
            log.debug("The traceback:", exc_info=True)
            first = (str(error).strip() or "no message").splitlines()[0].rstrip(".")
            raise UserError(f"{who} raised {type(error).__name__} ({first}); report that to its authors.") from error
        if code is not None and (not isinstance(code, int) or isinstance(code, bool)):
            raise UserError(f"{who} returned {code!r:.60}; expected an exit code or None.")
        return code


def plugin_commands(own: Collection[str]) -> dict[str, PluginCommand]:
    """The commands of installed plugins by name.

    Those whose name is not a valid one, or taken by one of rollforge's ``own``, are left out with a warning.
    ``ROLLFORGE_PLUGINS`` limits them as it limits parts.
    """
    found: dict[str, PluginCommand] = {}
    for entry in allowed(entry_points(group=GROUPS[1])):
        command = PluginCommand(entry)
        if not NAME.fullmatch(entry.name):
            _warn(f"{command.origin}: a command cannot be called {entry.name!r}; it was skipped.")
        elif entry.name in own or entry.name in found:
            holder = found[entry.name].origin if entry.name in found else "rollforge"
            _warn(f"{command.origin} has a command {entry.name!r}, a name that {holder} has taken; it was skipped.")
        else:
            found[entry.name] = command
    return found


def _warn(failure: str) -> None:
    log.warning("Plugin problem: %s", failure)
