"""The plugin layer: every part, built in or not, comes through the same door.

A plugin is a module (or object) under the entry-point group ``rollforge`` with hooks named
``rollforge_register_<kind>(register)`` that call ``register(Class)`` or ``register("package.module:Class")``.
``ROLLFORGE_PLUGINS=`` limits loading to the entry points it names, separated by commas; empty loads none.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from rollforge.errors import UserError, nearest
from rollforge.registry import builtins
from rollforge.registry.guard import PluginError, guarded
from rollforge.registry.hooks import BASES, GROUP, KINDS, hookspecs

log = logging.getLogger(__name__)

BUILT_IN = "rollforge"
TARGET = re.compile(r"[\w.]+:\w+")


@dataclass(frozen=True)
class Part:
    """A registered class, imported when it is first asked for."""

    kind: str
    name: str
    origin: str
    target: type | str

    def load(self) -> type:
        """The class. Raises ``TypeError`` for what is not a class of its kind."""
        found, base = _resolved(self.target), _resolved(BASES[self.kind])
        if not (isinstance(found, type) and issubclass(found, base)):
            raise TypeError(f"it is not a subclass of {base.__module__}.{base.__name__}")
        return found

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.load()) or "").partition("\n")[0]


@dataclass
class Registry:
    """What was found, and what failed on the way."""

    parts: dict[tuple[str, str], Part] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    modules: set[str] = field(default_factory=set)
    """The modules of the installed plugins."""

    def of(self, kind: str) -> Iterator[Part]:
        """The parts of one kind."""
        return (part for part in self.parts.values() if part.kind == kind)

    def find(self, name: str) -> Part:
        """The part called ``name``, of any kind."""
        for part in self.parts.values():
            if part.name == name:
                return part
        known = sorted(part.name for part in self.parts.values())
        raise UserError(f"There is no part called {name!r}.{nearest(name, known)} Known parts: {', '.join(known)}.")

    def add(self, part: Part) -> None:
        """Takes a part in, unless its name is taken."""
        taken = self.parts.get((part.kind, part.name))
        if taken is None:
            self.parts[part.kind, part.name] = part
        elif taken.target != part.target:
            self.fail(
                f"{part.origin} registers the {part.kind} {part.name!r}, a name that {taken.origin} has already taken; "
                f"the one from {taken.origin} stays."
            )

    def fail(self, failure: str) -> None:
        """Notes, and says, what is left out and why."""
        self.failures.append(failure)
        log.warning("Plugin problem: %s", failure)

    def load(self) -> None:
        """Imports every part, so that jsonargparse resolves short names; a part that cannot be imported is dropped."""
        for key, part in list(self.parts.items()):
            if part.origin == BUILT_IN:
                part.load()
                continue
            try:
                with guarded(part.origin, self.fail):
                    part.load()
            except PluginError as error:
                del self.parts[key]
                self.fail(f"{part.origin}: the {part.kind} {part.name!r} cannot be used ({error}).")


@cache
def registry() -> Registry:
    """The registry of this process: built-ins first, then the installed plugins."""
    found = Registry()
    for part in _collect(builtins, BUILT_IN):
        found.add(part)
    for entry in _allowed(entry_points(group=GROUP), found):
        origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.name
        try:
            with guarded(origin, found.fail):
                parts = _collect(entry.load(), origin)
        except PluginError as error:
            found.fail(f"{origin}: the plugin {entry.name!r} ({entry.value}) was skipped ({error}).")
            continue
        found.modules.add(entry.module)
        for part in parts:
            found.add(part)
    return found


def _collect(plugin: Any, origin: str) -> list[Part]:
    """Calls the hooks of one plugin; returns its parts if all of them succeed."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)  # type: ignore[arg-type] # any namespace of functions will do
    manager.register(plugin, name=origin)
    manager.check_pending()
    parts: list[Part] = []
    for kind in KINDS:

        def register(target: type | str, kind: str = kind) -> None:
            if not isinstance(target, type | str) or (isinstance(target, str) and not TARGET.fullmatch(target)):
                raise TypeError(f"it registers {target!r:.60}; expected a class, or 'package.module:Class'")
            name = target.__name__ if isinstance(target, type) else target.rpartition(":")[2]
            parts.append(Part(kind, name, origin, target))

        getattr(manager.hook, f"rollforge_register_{kind}")(register=register)
    return parts


def _resolved(target: type | str) -> Any:
    """What ``package.module:Class`` names."""
    if isinstance(target, type):
        return target
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def _allowed(entries: Any, found: Registry) -> list[EntryPoint]:
    """The entry points that ``ROLLFORGE_PLUGINS`` lets in, by name."""
    ordered = sorted(entries, key=lambda entry: (entry.name, entry.value))
    wanted = os.environ.get("ROLLFORGE_PLUGINS")
    if wanted is None:
        return ordered
    names = {name.strip() for name in wanted.split(",") if name.strip()}
    for name in sorted(names - {entry.name for entry in ordered}):
        found.fail(
            f"ROLLFORGE_PLUGINS names {name!r}, which is not installed.{nearest(name, [e.name for e in ordered])}"
        )
    return [entry for entry in ordered if entry.name in names]
