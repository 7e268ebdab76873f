"""Checks a parsed config against the types of the parts that it names, before any of them is built."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from inspect import Parameter, signature
from types import NoneType
from typing import Annotated, Any, get_args

from jsonargparse import Namespace
from lightning.pytorch import Trainer

from rollforge.data.requests import read_prompts
from rollforge.errors import UserError
from rollforge.lightning.data import RolloutData
from rollforge.lightning.module import RolloutModule
from rollforge.ranges import Count, CountFromZero, NonNegative, Range, Share, fitted, hints, label
from rollforge.snapshots.settings import Snapshots

SECTIONS: dict[str, type] = {"model": RolloutModule, "data": RolloutData, "snapshots": Snapshots, "trainer": Trainer}
Batches = CountFromZero | Share  # or a share of them
Forever = Annotated[int, Range(-1)]  # -1: no limit
TRAINER: Mapping[str, Any] = {  # Lightning checks some of them, late, and others not at all
    "num_nodes": Count,
    "max_epochs": Forever | None,
    "min_epochs": CountFromZero | None,
    "max_steps": Forever,
    "min_steps": CountFromZero | None,
    "limit_train_batches": Batches | None,
    "limit_test_batches": Batches | None,
    "limit_predict_batches": Batches | None,
    "overfit_batches": Batches,
    "log_every_n_steps": CountFromZero | None,
    "accumulate_grad_batches": Count,
    "gradient_clip_val": NonNegative | None,
    "reload_dataloaders_every_n_epochs": CountFromZero,
}
OPTIONS: Mapping[str, Any] = {
    "report_every": Count,
    "seed_everything": Annotated[int, Range(0, 2**32 - 1)] | bool | None,
}


def check(config: Namespace) -> None:
    """Resolves ``~`` in the paths of a config. Raises ``UserError`` for a number out of range and a misplaced null."""
    _resolve_home(config)
    fitted("", OPTIONS, vars(config))
    fitted("trainer", TRAINER, vars(config.get("trainer") or Namespace()))
    if isinstance(data := config.get("data"), Namespace) and isinstance(prompts := data.get("prompts"), list):
        read_prompts(prompts)
    for section, target in SECTIONS.items():
        if isinstance(arguments := config.get(section), Namespace):
            if section == "model" and arguments.get("class_path") and "backbone" in arguments:
                raise UserError(
                    f"model names {arguments.class_path}, which rollforge fit alone takes; name a backbone."
                )
            _check(target, arguments)


def _check(target: type, arguments: Namespace) -> None:
    """Checks the arguments of one class, and of the classes that they name."""
    types, values = hints(target.__init__), vars(arguments)  # type: ignore[misc] # reads a class, builds nothing
    for name, parameter in _parameters(target).items():
        if values.get(name, ...) is None and parameter.default is not None and not _optional(types.get(name)):
            raise UserError(_without_value(label(target), parameter))
    fitted(label(target), types, values)
    for name, value in values.items():
        for part, given in _parts(value, types.get(name)):
            _check(part, given)


def _parameters(target: type) -> Mapping[str, Parameter]:
    try:
        return signature(target).parameters
    except ValueError:  # of a class that is not written in Python
        return {}


def _optional(kind: Any) -> bool:
    return kind in (None, Any, object, NoneType) or NoneType in get_args(kind)


def _without_value(part: str, parameter: Parameter) -> str:
    if parameter.default is Parameter.empty:
        return f"{part} needs {parameter.name}; give it in the config."
    return f"{part}.{parameter.name} must not be null; leave it out for its default, {parameter.default!r:.60}."


def _parts(value: Any, kind: Any) -> Iterator[tuple[type, Namespace]]:
    """The classes that a value names, with their arguments."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, Namespace) and "class_path" in each:
            module, _, name = str(each.class_path).rpartition(".")
            if isinstance(part := getattr(sys.modules.get(module), name, None), type):  # which the parser has imported
                yield part, each.get("init_args") or Namespace()
        elif isinstance(each, Namespace):  # of a dataclass, which the type names
            yield from (
                (part, each) for part in (kind, *get_args(kind)) if isinstance(part, type) and is_dataclass(part)
            )


def _resolve_home(value: Any) -> Any:
    """The value with every text that begins with ``~/`` resolved, in place where it holds others."""
    if isinstance(value, str):
        if "\0" in value:
            raise UserError(f"The config has a null character in {value!r:.60}; remove it.")
        return os.path.expanduser(value) if value.startswith("~/") else value
    if isinstance(value, Namespace | dict):
        entries = vars(value) if isinstance(value, Namespace) else value
        for name in entries:
            entries[name] = _resolve_home(entries[name])
    elif isinstance(value, list):
        value[:] = map(_resolve_home, value)
    return value
