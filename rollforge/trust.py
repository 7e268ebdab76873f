"""Which modules a config may import.

A ``class_path`` imports a module, so whoever writes a config decides what runs. Nothing is imported for a config but
from rollforge, the installed plugins, torch's optimizers and schedules, Lightning's own parts, and the modules that the
person at the keyboard names with ``--trust`` or ``ROLLFORGE_TRUST``. A config cannot name them: it is not trusted.

jsonargparse refuses at the point of import, whichever way the path came in; here is only the list.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path

import lightning.pytorch.cli  # noqa: F401 - importing it lets jsonargparse fetch configs, which ends here
from jsonargparse import _common, set_parsing_settings

from rollforge.errors import UserError
from rollforge.registry import GROUP, registry
from rollforge.safe_yaml import guarded_loader

OPTION, VARIABLE = "--trust", "ROLLFORGE_TRUST"
TRUSTED = (
    *("rollforge", "torch.optim", "lightning.pytorch.cli.ReduceLROnPlateau"),
    *("lightning.Callback", "lightning.pytorch.Callback"),  # other names of a class in what follows
    *(
        f"lightning.{package}.{part}"
        for package in ("pytorch", "fabric")
        for part in ("accelerators", "callbacks", "loggers", "plugins", "profilers", "strategies")
    ),
)
REFUSED = tuple(f"rollforge.{name}" for name in ("__main__", "cli", "commands", "registry", "trust"))
"""What no part lives in, and what could import or allow more by itself."""
SHARED = frozenset({"torch", "lightning", "jsonargparse", "rollforge", *sys.stdlib_module_names})
"""Packages that a plugin does not make trusted as a whole by registering a class of theirs."""
UNTRUSTED = "would run code of a module that is not trusted"
DENIED = re.compile(rf"(?:Importing '|\b)([\w.]+)(?:' is not allowed|(?: in \S+(?: at \S+)?)? {UNTRUSTED})")
"""What jsonargparse says, and what we say, which it may put into a longer message."""

if not {"import_path_denylist", "import_path_allowlist"} <= inspect.signature(set_parsing_settings).parameters.keys():
    raise ImportError("rollforge needs a jsonargparse that can refuse imports (4.53 or later); upgrade it.")

_given: ContextVar[tuple[str, ...]] = ContextVar("_given", default=())


def take(arguments: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The modules that the command line and ``ROLLFORGE_TRUST`` trust, and the arguments without ``--trust``.

    Raises ``UserError`` for a name that is no module.
    """
    named, rest, left = [os.environ.get(VARIABLE, "")], list[str](), iter(arguments)
    for argument in left:
        if argument == OPTION:
            named.append(value := next(left, ""))
            if not value or value.startswith("-"):
                raise UserError(f"{OPTION} needs the name of a module; write {OPTION} MODULE[,MODULE].")
        elif argument.startswith(f"{OPTION}="):
            named.append(argument.partition("=")[2])
        else:
            rest.append(argument)
    modules = tuple(dict.fromkeys(name.strip() for name in ",".join(named).split(",") if name.strip()))
    for module in modules:
        if not all(step.isidentifier() for step in module.split(".")) or module.split(".")[0] == "jsonargparse":
            raise UserError(f"{module!r} cannot be trusted; {OPTION} takes names of modules such as my_package.parts.")
    return modules, rest


@contextmanager
def guarded(modules: Iterable[str] = (), arguments: Sequence[str] = ()) -> Iterator[None]:
    """In here parsing and instantiation import nothing but what is trusted, and fetch no config from elsewhere.

    Args:
        modules: what the user trusts besides, from ``take``.
        arguments: the command line, to say in errors where a path stands.
    """
    before = dict(_common.parsing_settings)  # there is no public way back
    token = _given.set(tuple(arguments))
    try:
        allow(modules)
        with guarded_loader():
            yield
    except _common.ImportDenied as error:
        found = DENIED.search(str(error))
        raise UserError(refusal(found[1] if found else str(error))) from error
    finally:
        _given.reset(token)
        _common.parsing_settings.update(before)


def allow(modules: Iterable[str] = ()) -> None:
    """From now on nothing is imported for a config but what is trusted, ``modules`` included."""
    set_parsing_settings(
        import_path_denylist=["*", *REFUSED],
        import_path_allowlist=[*TRUSTED, *sorted(plugin_modules()), *modules],
        instantiate_subclass_spec_in_any=False,
        config_read_mode_urls_enabled=False,
        config_read_mode_fsspec_enabled=False,  # which Lightning switches on
    )


def refused(path: str) -> bool:
    """Whether a dotted path may not be imported now."""
    return _common.denying_import_path_entry(path) is not None


def refusal(path: str, where: str | None = None) -> str:
    """The sentence for a path that may not be imported."""
    where = where or _place(path)
    return (
        f"{path}{f' in {where}' if where else ''} {UNTRUSTED}; if you have read it and trust it, add {OPTION} "
        f"{path.rpartition('.')[0] or path} to the command line."
    )


def plugin_modules() -> set[str]:
    """The packages of the installed plugins and of the parts that they register."""
    wanted = os.environ.get("ROLLFORGE_PLUGINS")
    names = None if wanted is None else {name.strip() for name in wanted.split(",")}
    paths = {entry.value for entry in entry_points(group=GROUP) if names is None or entry.name in names}
    for part in registry().parts.values():
        target = part.target
        paths.add(target if isinstance(target, str) else f"{target.__module__}.{target.__qualname__}")
    return {_package(path.partition("[")[0].strip().replace(":", ".")) for path in paths} - {"rollforge"}


def _package(path: str) -> str:
    top = path.partition(".")[0]
    return top if top == "rollforge" or top not in SHARED else path


def _place(path: str) -> str | None:
    """The option or the config file that a path stands in."""
    given = _given.get()
    for before, argument in pairwise(("", *given)):
        if path in argument:
            return (argument if argument.startswith("-") else before or argument).partition("=")[0]
    files = [Path(argument.removeprefix("--config=")) for argument in given]
    return next(
        (str(file) for file in files if os.path.isfile(file) and path in file.read_text(errors="replace")), None
    )
