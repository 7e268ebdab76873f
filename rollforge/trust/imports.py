"""What a config may import.

A ``class_path`` imports a module and calls what it names, so the author of a config decides what runs. A config may
name the classes of ``nameable``, and what is in the modules that the user trusts with ``--trust`` or
``ROLLFORGE_TRUST``. A config cannot name such modules: it is not trusted itself.

jsonargparse calls this at the point of import, whichever way the path was given.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch.cli  # noqa: F401 - importing it lets jsonargparse fetch configs, which ends here
from jsonargparse import _common, _typehints, _util, set_parsing_settings

from rollforge.errors import UserError
from rollforge.files.safe_yaml import guarded_loader
from rollforge.registry import registry
from rollforge.trust.nameable import Nameable

OPTION, VARIABLE = "--trust", "ROLLFORGE_TRUST"
REFUSED = tuple(f"rollforge.{name}" for name in ("__main__", "cli", "commands", "registry", "trust", "nameable"))
"""What could import or allow more by itself, even if it is trusted."""
KNOWN = ("rollforge", "torch", "lightning")
"""Packages of which single classes may be named."""
UNTRUSTED = "would run code of a module that is not trusted"
PLACE = r"(?: in \S+| in a config)?(?: at \S+)?"
DENIED = re.compile(rf"(?:Importing '|\b)([\w.]+)(?:' is not allowed|{PLACE} (?:{UNTRUSTED}|is not trusted))")
"""What jsonargparse says, and what we say, which it may put into a longer message."""

if not {"import_path_denylist", "import_path_allowlist"} <= inspect.signature(set_parsing_settings).parameters.keys():
    raise ImportError("rollforge needs a jsonargparse that can refuse imports (4.53 or later); upgrade it.")


@contextmanager
def guarded(modules: Iterable[str] = ()) -> Iterator[None]:
    """In here parsing and instantiation import nothing but what is trusted, and fetch no config from elsewhere.

    A registered part is imported when its name, short or full, is read.

    Args:
        modules: what the user trusts besides, as typed.
    """
    found = registry()
    nameable, trusted = Nameable(found), tuple(modules)

    def denying(path: str) -> str | None:
        """Called by jsonargparse: the rule that forbids a path, None where it is allowed."""
        return None if nameable.allows(path) or _within(path, trusted) else "*"

    def resolve(kind: Any, name: str) -> str:
        """The full path of a short name, which jsonargparse looks for among the classes that are imported."""
        if "." not in name:
            found.require(name)
        return by_name(kind, name)

    settings, original = (
        dict(_common.parsing_settings),
        _common.denying_import_path_entry,
    )  # there is no public way back
    by_name = _typehints.resolve_class_path_by_name
    try:
        set_parsing_settings(
            import_path_denylist=["*", *REFUSED],
            import_path_allowlist=[*sorted(nameable.paths), *trusted],
            instantiate_subclass_spec_in_any=False,
            config_read_mode_urls_enabled=False,
            config_read_mode_fsspec_enabled=False,  # which Lightning switches on
        )
        _typehints.resolve_class_path_by_name = resolve  # type: ignore[assignment] # its parameters have other names
        _common.denying_import_path_entry = denying  # its own rule goes by prefix: methods of a class would be allowed
        with guarded_loader(_check_file):
            yield
    except _common.ImportDenied as error:
        denied = DENIED.search(str(error))
        raise UserError(refusal(denied[1] if denied else str(error))) from error
    finally:
        _typehints.resolve_class_path_by_name = by_name
        _common.denying_import_path_entry = original
        _common.parsing_settings.update(settings)


def refused(path: str) -> bool:
    """Whether a dotted path may not be imported now."""
    return _common.denying_import_path_entry(path) is not None


def refusal(path: str, where: str = "") -> str:
    """The sentence for a path that may not be imported; ``where`` says where it stands, as in `` in a.yaml``."""
    if path.partition(".")[0] in (*KNOWN, *sys.stdlib_module_names):
        return (
            f"{path}{where} is not trusted: a config may only name parts (see: rollforge plugins), optimizers and "
            "schedules of torch, and classes of Lightning such as callbacks and loggers; name one of those."
        )
    return (
        f"{path}{where} {UNTRUSTED}; if you have read it and trust it, add {OPTION} {path.rpartition('.')[0] or path} "
        "to the command line."
    )


def check_classes(content: Any, name: str, at: str = "") -> None:
    """Raises ``UserError`` for a ``class_path`` in a config called ``name`` that may not be imported.

    It looks at places too where the parser takes any data.
    """
    if isinstance(content, list):
        for each in content:
            check_classes(each, name, at)
    elif isinstance(content, dict):
        path = content.get("class_path")
        if isinstance(path, str) and "." in path and refused(path):
            raise UserError(refusal(path, f" in {name} at {at}" if at else f" in {name}"))
        for key, each in content.items():
            check_classes(each, name, f"{at}.{key}".lstrip("."))


def _check_file(content: Any) -> None:
    """Looks at what jsonargparse has read from a file, such as a config that a config names."""
    if files := _util.config_load_stack.get():
        check_classes(content, files[-1][1])


def _within(path: str, modules: Iterable[str]) -> bool:
    """Whether a path lies in one of the modules, and not in what is refused."""

    def below(module: str) -> bool:
        return f"{path}.".startswith(f"{module}.")

    return any(map(below, modules)) and not any(map(below, REFUSED))
