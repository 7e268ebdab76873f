"""The plugin layer: built-in components and those of plugins are registered in the same way.

A plugin is a module (or object) under the entry-point group ``rollforge`` with hooks named
``rollforge_register_<kind>(register)`` that call ``register(Class)`` or ``register("package.module:Class")``. It may
state the ``rollforge.API`` it is written for, as ``rollforge_api = 1``. ``ROLLFORGE_PLUGINS=`` limits loading to the
entry points it names, separated by commas; empty loads none.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from rollforge import API, OLDEST_API, __version__
from rollforge.errors import UserError, nearest
from rollforge.registry import builtins
from rollforge.registry.guard import PluginError, guarded
from rollforge.registry.hooks import BASES, GROUP, HOOKS, hookspecs

log = logging.getLogger(__name__)

BUILT_IN = "rollforge"
GROUPS = (GROUP, f"{GROUP}.commands")
"""The groups of entry points: of parts, and of commands."""
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
        found, base = _resolved(self.target), self.base
        if not (isinstance(found, type) and issubclass(found, base)):
            raise TypeError(f"it is not a subclass of {base.__module__}.{base.__name__}")
        return found

    @property
    def base(self) -> type:
        """The base class of its kind."""
        found: type = _resolved(BASES[self.kind])
        return found

    @property
    def module(self) -> str:
        """The module that it was registered from, or that defines the class."""
        return self.target.__module__ if isinstance(self.target, type) else self.target.partition(":")[0]

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.load()) or "").partition("\n")[0]


@dataclass
class Registry:
    """Registered components, and what could not be registered."""

    parts: dict[tuple[str, str], Part] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    modules: set[str] = field(default_factory=set)
    """The modules of the installed plugins."""
    _loaded: dict[tuple[str, str], type] = field(default_factory=dict)

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
        """Adds a component, unless its name is taken."""
        taken = self.parts.get((part.kind, part.name))
        if taken is None:
            self.parts[part.kind, part.name] = part
        elif taken.target != part.target:
            self.fail(
                f"{part.origin} registers the {part.kind} {part.name!r}, a name that {taken.origin} has already taken; "
                f"the one from {taken.origin} stays."
            )

    def fail(self, failure: str) -> None:
        """Records, and warns, what is left out and why."""
        self.failures.append(failure)
        log.warning("Plugin problem: %s", failure)

    def load(self) -> None:
        """Imports every part; one that cannot be imported is dropped."""
        self._import(self.parts.values())

    def load_built_in(self) -> None:
        """Imports rollforge's own parts, which is fast."""
        self._import(part for part in self.parts.values() if part.origin == BUILT_IN)

    def require(self, name: str) -> None:
        """Imports the parts called ``name``, if there are any, so that jsonargparse resolves the short name.

        Raises ``UserError`` where none of them can be imported.
        """
        wanted = [part for part in self.parts.values() if part.name == name]
        if (reasons := self._import(wanted)) and len(reasons) == len(wanted):
            raise UserError(reasons[0])

    def loaded(self) -> list[type]:
        """The classes of the parts that are imported."""
        return list(self._loaded.values())

    def _import(self, parts: Iterable[Part]) -> list[str]:
        """Imports some parts, and drops those that fail. Returns why."""
        reasons = []
        for part in list(parts):
            key = part.kind, part.name
            if key in self._loaded:
                continue
            try:
                with guarded(part.origin, self.fail) if part.origin != BUILT_IN else nullcontext():
                    self._loaded[key] = part.load()
            except PluginError as error:
                del self.parts[key]
                reasons.append(f"{part.origin}: the {part.kind} {part.name!r} cannot be used ({error}).")
                self.fail(reasons[-1])
        return reasons


@cache
def registry() -> Registry:
    """The registry of this process: built-ins first, then the installed plugins."""
    found = Registry()
    for part in _collect(builtins, BUILT_IN):
        found.add(part)
    _absent(found)
    for entry in allowed(entry_points(group=GROUP)):
        origin = origin_of(entry)
        try:
            with guarded(origin, found.fail):
                plugin = entry.load()
                check_api(plugin)
                parts = _collect(plugin, origin)
        except PluginError as error:
            found.fail(f"{origin}: the plugin {entry.name!r} ({entry.value}) was skipped ({error}).")
            continue
        found.modules.add(entry.module)
        for part in parts:
            found.add(part)
        found._import(part for part in parts if isinstance(part.target, type))  # which costs nothing
    return found


def check_api(plugin: Any) -> None:
    """Raises ``PluginError`` for a plugin that is written for other contracts than those of this release."""
    wanted = getattr(plugin, "rollforge_api", API)
    if not isinstance(wanted, int) or isinstance(wanted, bool):
        raise PluginError(f"its rollforge_api is {wanted!r:.60}; it must be a whole number, such as {API}")
    if wanted > API:
        raise PluginError(
            f"it is written for API {wanted} of rollforge, and rollforge {__version__} has API {API}; upgrade "
            "rollforge, or install an earlier release of the plugin"
        )
    if wanted < OLDEST_API:
        raise PluginError(
            f"it is written for API {wanted} of rollforge, and rollforge {__version__} has API {API} and serves none "
            f"below {OLDEST_API}; install a later release of the plugin"
        )


def _check_marks(plugin: Any) -> None:
    """Raises ``PluginError`` for a hook that would be ignored because it has no mark."""
    for name in dir(plugin):
        if name.startswith("rollforge_register_") and not hasattr(getattr(plugin, name), f"{GROUP}_impl"):
            raise PluginError(f"its function {name} is not marked; put @hookimpl of rollforge.registry above it")


def _collect(plugin: Any, origin: str) -> list[Part]:
    """Calls the hooks of one plugin; returns its parts if all of them succeed."""
    _check_marks(plugin)
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)  # type: ignore[arg-type] # any namespace of functions will do
    manager.register(plugin, name=origin)
    manager.check_pending()
    parts: list[Part] = []
    for hook, kind in HOOKS.items():

        def register(target: type | str, kind: str = kind) -> None:
            if not isinstance(target, type | str) or (isinstance(target, str) and not TARGET.fullmatch(target)):
                raise TypeError(f"it registers {target!r:.60}; expected a class, or 'package.module:Class'")
            name = target.__name__ if isinstance(target, type) else target.rpartition(":")[2]
            parts.append(Part(kind, name, origin, target))

        getattr(manager.hook, hook)(register=register)
    return parts


def _resolved(target: type | str) -> Any:
    """What ``package.module:Class`` names."""
    if isinstance(target, type):
        return target
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def origin_of(entry: EntryPoint) -> str:
    """The distribution of an entry point, with its version."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.name


def allowed(entries: Iterable[EntryPoint]) -> list[EntryPoint]:
    """The entry points that ``ROLLFORGE_PLUGINS`` lets in, by name."""
    ordered, names = sorted(entries, key=lambda entry: (entry.name, entry.value)), _wanted()
    return ordered if names is None else [entry for entry in ordered if entry.name in names]


def _wanted() -> set[str] | None:
    """The names in ``ROLLFORGE_PLUGINS``; None where it is not set."""
    wanted = os.environ.get("ROLLFORGE_PLUGINS")
    return None if wanted is None else {name.strip() for name in wanted.split(",") if name.strip()}


def _absent(found: Registry) -> None:
    """Says which names in ``ROLLFORGE_PLUGINS`` no entry point has."""
    known = {entry.name for group in GROUPS for entry in entry_points(group=group)}
    for name in sorted((_wanted() or set()) - known):
        found.fail(f"ROLLFORGE_PLUGINS names {name!r}, which is not installed.{nearest(name, sorted(known))}")
