"""Names of version 0.1 that have changed. The old ones work until 0.3, with one warning each."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

log = logging.getLogger(__name__)

KEYS = {
    "model": {"beside": "compare_policy", "negative": "negative_prompt", "check": "block_check", "rope": "positions"},
    "data": {"clips": "train_dataset", "workers": "num_workers", "rollout_batch": "rollout_batch_size"},
}
"""Keys of a config, by section."""
ARGUMENTS = {"model.block_check": {"attempts": "max_retries"}}
"""Arguments of what a key names."""
VALUES = {"snapshots.kv": {"replay": "recompute"}}
"""Values of a key."""
CLASSES = {"Plain": "IdentityKVCodec", "rollforge.memory.Plain": "rollforge.memory.IdentityKVCodec"}
"""Short names, and paths in packages that have stayed."""
MODULES = {
    "rollforge.average": "rollforge.lightning.average",
    "rollforge.branching": "rollforge.rollout.branching",
    "rollforge.builtins": "rollforge.registry.builtins",
    "rollforge.data.module": "rollforge.lightning.data",
    "rollforge.evaluation.given": "rollforge.evaluation.video_folder",
    "rollforge.evaluation.measured": "rollforge.evaluation.video_result",
    "rollforge.evaluation.ruler": "rollforge.evaluation.horizon",
    "rollforge.health": "rollforge.rollout.block_check",
    "rollforge.memory.kv": "rollforge.memory.kv_codec",
    "rollforge.memory.rope": "rollforge.positions.rope",
    "rollforge.module": "rollforge.lightning.module",
    "rollforge.rolling": "rollforge.rollout.iterator",
    "rollforge.safe_files": "rollforge.files.reading",
    "rollforge.safe_yaml": "rollforge.files.safe_yaml",
    "rollforge.stopping": "rollforge.signals",
    "rollforge.take": "rollforge.pipeline.video_rollout",
}
ATTRIBUTES = {
    "rollforge.evaluation.given": {"Given": "VideoFolder"},
    "rollforge.evaluation.measured": {"Measured": "VideoResult"},
    "rollforge.evaluation.ruler": {"Ruler": "Horizon"},
    "rollforge.memory.kv": {"Plain": "IdentityKVCodec"},
    "rollforge.rolling": {"Run": "RolloutIterator"},
    "rollforge.stopping": {"Stop": "SignalHandler"},
    "rollforge.take": {"Take": "VideoRollout"},
}
"""What has another name in its new module."""
SETTING = re.compile(r"(?P<dashes>--)?(?P<section>\w+)\.(?P<key>\w+)(?P<rest>(?:[.+=]|$).*)", re.DOTALL)


def renamed(content: Any) -> Any:
    """A config with today's names: keys of its sections, values and class paths."""
    content = _with_classes(content)
    if not isinstance(content, dict):
        return content
    return {name: _section(str(name), section) for name, section in content.items()}


def renamed_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line with today's names in its options, and in what ``--vary`` varies."""
    found: list[str] = []
    for argument in arguments:
        before = found[-1] if found else ""
        option, equals, value = argument.partition("=")
        if option == "--vary" and equals:
            argument = f"--vary={_setting(value)}"
        elif argument.startswith("--") or before == "--vary":
            argument = _setting(argument)
        elif (values := VALUES.get(before.removeprefix("--"))) and argument in values:
            argument = _new(f"{before.removeprefix('--')}: {argument}", argument, values[argument])
        found.append(argument)
    return found


def class_path(path: str) -> str:
    """Today's path or short name of a class."""
    if path in CLASSES:
        return CLASSES[path]
    module, _, name = path.rpartition(".")
    if module not in MODULES:
        return path
    return f"{MODULES[module]}.{ATTRIBUTES.get(module, {}).get(name, name)}"


def _section(section: str, content: Any) -> Any:
    """The keys and values of one section of a config."""
    if not isinstance(content, dict):
        return content
    keys, known = KEYS.get(section, {}), {}
    for key, value in content.items():
        name = _new(f"{section}.{key}", key, keys[key]) if key in keys and keys[key] not in content else key
        where = f"{section}.{name}"
        if isinstance(value, str) and value in VALUES.get(where, {}):
            value = _new(f"{where}: {value}", value, VALUES[where][value])
        known[name] = _arguments(where, value)
    return known


def _arguments(where: str, value: Any) -> Any:
    """The arguments of a class that a key names, which may stand below ``init_args``."""
    names = ARGUMENTS.get(where)
    if names is None or not isinstance(value, dict):
        return value
    if isinstance(value.get("init_args"), dict):
        return value | {"init_args": _arguments(where, value["init_args"])}
    return {_new(f"{where}.{key}", key, names[key]) if key in names else key: each for key, each in value.items()}


def _setting(text: str) -> str:
    """``model.key``, ``--model.key.argument`` or ``--model.key=value``."""
    match = SETTING.fullmatch(text)
    if match is None:
        return text
    section, key, rest = match["section"], match["key"], match["rest"]
    if new := KEYS.get(section, {}).get(key):
        key = _new(f"{section}.{key}", key, new)
    where = f"{section}.{key}"
    for old, new in ARGUMENTS.get(where, {}).items():
        rest = re.sub(rf"^((?:\.init_args)?\.){old}(?=[.=]|$)", rf"\g<1>{new}", rest)
    for old, new in VALUES.get(where, {}).items():
        rest = re.sub(rf"^={old}$", f"={new}", rest)
    return f"{match['dashes'] or ''}{where}{rest}"


def _with_classes(content: Any) -> Any:
    """Plain data, every ``class_path`` in it as it is today."""
    if isinstance(content, list):
        return [_with_classes(each) for each in content]
    if not isinstance(content, dict):
        return content
    found = {key: _with_classes(each) for key, each in content.items()}
    path = found.get("class_path")
    if isinstance(path, str) and (new := class_path(path)) != path:
        found["class_path"] = _new(path, path, new)
    return found


def _new(what: str, old: str, new: str) -> str:
    """The new name, after a warning."""
    _warn(what, new)
    return new


@cache
def _warn(what: str, new: str) -> None:
    log.warning("%s is called %s now; the old name works until rollforge 0.3.", what, new)


class _Forward(ModuleType):
    """A module under its old name: hands on what the new one holds."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(import_module(MODULES[self.__name__]), ATTRIBUTES.get(self.__name__, {}).get(name, name))


class _OldModules(MetaPathFinder, Loader):
    """Finds modules under their old names."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MODULES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        _warn(f"The module {spec.name}", MODULES[spec.name])
        return _Forward(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Everything is in the new module."""


def install() -> None:
    """Lets modules be imported under their old names."""
    if not any(isinstance(finder, _OldModules) for finder in sys.meta_path):
        sys.meta_path.append(_OldModules())
