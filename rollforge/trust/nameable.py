"""The classes that a config may name: registered parts, torch's optimizers and schedules, and Lightning's own classes.

They are listed by class, not by module. A module also holds functions, and what it has imported itself; a config that
could name those could call them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any, get_args, get_type_hints

import torch
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch import Callback, accelerators, callbacks, loggers, plugins, profilers, strategies
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.plugins import environments, io, precision
from torch.optim import Optimizer, lr_scheduler, swa_utils
from torch.optim.lr_scheduler import LRScheduler

from rollforge.lightning.fit_module import FitModule
from rollforge.objectives.multigrid import Multigrid, Stage
from rollforge.registry import Part, Registry
from rollforge.registry.guard import PluginError, guarded
from rollforge.rollout.block_check import BlockCheck

log = logging.getLogger(__name__)

LIGHTNING = (accelerators, callbacks, loggers, plugins, environments, io, precision, profilers, strategies)
TORCH = (torch.optim, lr_scheduler, swa_utils)
BASES: tuple[type, ...] = (
    Callback, Optimizer, LRScheduler, accelerators.Accelerator, loggers.Logger, profilers.Profiler,
    strategies.Strategy, plugins.CheckpointIO, ClusterEnvironment, plugins.LayerSync, plugins.Precision, FitModule,
)  # fmt: skip
"""What the Trainer, the optimizer's place and ``fit`` take in a config. Plugins may bring classes of their own."""
PICKLES = "DeepSpeed"
"""Classes with this in their name read checkpoints as plain pickles, which run code."""
OWN = (BlockCheck, Multigrid, Stage)
"""Settings of rollforge that are classes, and no parts."""
SHARED = frozenset({"torch", "lightning", "jsonargparse", "rollforge", *sys.stdlib_module_names})
"""Packages that a plugin does not own, even if it registers a class of theirs."""


class Nameable:
    """The classes that a config may name in this process.

    Parts of plugins are imported when a path leads to them, or to something that they may take as an argument.

    Args:
        found: the registry.
    """

    def __init__(self, found: Registry) -> None:
        self.found = found
        self.bases: tuple[type, ...] = ()
        self.paths: set[str] = set()
        self._known: set[type] = set()
        found.load_built_in()
        self._learn()
        self.paths |= _public_paths()
        self.paths |= {
            part.target.replace(":", ".") for part in found.parts.values() if isinstance(part.target, str)
        }  # by the name of a module that only passes the class on

    @property
    def packages(self) -> set[str]:
        """The top-level packages of the plugins."""
        return plugin_packages(self.found)

    def allows(self, path: str) -> bool:
        """Whether a dotted path leads to one of the classes. Imports nothing but modules of installed plugins."""
        self._load(part for part in self.found.parts.values() if part.name == path.rpartition(".")[2])
        return path in self.paths or (path.partition(".")[0] in self.packages and self._of_a_plugin(path))

    def _of_a_plugin(self, path: str) -> bool:
        """Whether the path leads to a plugin's own class that fits where the Trainer or a part takes one."""
        module, _, name = path.rpartition(".")
        if not module or any(step.startswith("__") for step in path.split(".")):
            return False
        with suppress(PluginError), guarded(module, log.warning):
            found = getattr(import_module(module), name, None)
            return isinstance(found, type) and _package(found) in self.packages and self._fits(found)
        return False

    def _fits(self, found: type) -> bool:
        """Whether the Trainer takes such a class, or a part of one of the packages that it is derived from."""
        packages = {_package(each) for each in found.__mro__}
        self._load(part for part in self.found.parts.values() if part.module.partition(".")[0] in packages)
        return issubclass(found, self.bases)

    def _load(self, parts: Iterable[Part]) -> None:
        for name in {part.name for part in parts}:
            self.found.require(name)
        self._learn()

    def _learn(self) -> None:
        """Adds what the parts that are imported by now allow."""
        fresh = [part for part in self.found.loaded() if part not in self._known]
        self._known.update(fresh)
        arguments = {each for part in fresh for each in _arguments(part)}
        self.bases = (*(self.bases or (*BASES, *OWN)), *arguments)
        self.paths |= {path for each in (*fresh, *arguments) for path in _paths(each)}


def plugin_packages(found: Registry) -> set[str]:
    """The top-level packages of the installed plugins and of the parts that they register."""
    classes = (part.__module__ for part in found.loaded())
    named = (part.module for part in found.parts.values())
    return {module.partition(".")[0] for module in (*found.modules, *classes, *named)} - SHARED


@cache
def _public_paths() -> frozenset[str]:
    return frozenset(path for each in (*_public(), *OWN) for path in _paths(each))


def _public() -> Iterator[type]:
    for module in LIGHTNING:
        yield from (each for each in _classes(module) if PICKLES not in each.__name__)
    for module in TORCH:
        yield from (each for each in _classes(module) if issubclass(each, (Optimizer, LRScheduler)))
    yield ReduceLROnPlateau


def _classes(module: Any) -> Iterator[type]:
    return (each for name, each in vars(module).items() if isinstance(each, type) and not name.startswith("_"))


@cache
def _arguments(part: type) -> frozenset[type]:
    """The classes of rollforge, and of the part's own package, that its constructor takes."""
    try:
        hints = get_type_hints(part.__init__).values()  # type: ignore[misc] # the class is at hand, not an instance
    except Exception:  # annotations of a plugin that cannot be resolved; jsonargparse says so where it matters
        return frozenset()
    packages = ("rollforge", _package(part))
    return frozenset(each for hint in hints for each in _within(hint) if _package(each) in packages)


def _within(hint: Any) -> Iterator[type]:
    """The classes that an annotation is made of."""
    if isinstance(hint, type):
        yield hint
    for each in get_args(hint):
        yield from _within(each)


def _package(found: type) -> str:
    return found.__module__.partition(".")[0]


def _paths(found: type) -> Iterator[str]:
    """Where a class can be imported from: the module that defines it, and the packages above that pass it on."""
    steps = found.__module__.split(".")
    for n in range(1, len(steps) + 1):
        module = ".".join(steps[:n])
        if getattr(sys.modules[module], found.__name__, None) is found if module in sys.modules else n == len(steps):
            yield f"{module}.{found.__name__}"
    for package in (*LIGHTNING, *TORCH):
        if vars(package).get(found.__name__) is found:
            yield f"{package.__name__}.{found.__name__}"
