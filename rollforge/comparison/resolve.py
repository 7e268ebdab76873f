"""The whole config of each point, read just as ``rollforge test`` will read it, before anything is run."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import yaml

from rollforge import trust
from rollforge.commands.lightning import DEFAULTS, RollforgeCLI, _quiet
from rollforge.commands.mistakes import Parser, check_files
from rollforge.comparison.vary import Point
from rollforge.data.module import RolloutData
from rollforge.data.requests import read_prompts
from rollforge.errors import UserError
from rollforge.module import RolloutModule
from rollforge.registry import registry

Config = dict[str, Any]
COMMAND = "test"
CHEAP = ("policy", "sampler", "noise")
"""Parts of the model that are built to see whether they can be; no weights are read for them."""


class _Reader(RollforgeCLI):
    """Builds the parser of ``rollforge test`` and nothing else."""

    def __init__(self) -> None:
        self._parsed = False

    def parse(self, arguments: list[str]) -> Config:
        """The resolved config of a command line."""
        if not self._parsed:
            super(RollforgeCLI, self).__init__(
                RolloutModule,
                RolloutData,
                args=[COMMAND, *arguments],
                parser_class=Parser,
                save_config_callback=None,
                auto_configure_optimizers=False,
                trainer_defaults={**DEFAULTS, "enable_progress_bar": False},
            )
            self._parsed = True
        parsed = self.parser.parse_args([COMMAND, *arguments])
        config: Config = yaml.safe_load(self.parser.dump(parsed, skip_none=False))[COMMAND]
        return config

    def _set_seed(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        """Nothing."""

    def _parse_ckpt_path(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def resolve(points: Sequence[Point], arguments: Sequence[str]) -> list[Config]:
    """The config of each point under options that all share.

    Raises:
        UserError: for the first point that cannot be, named by its values.
    """
    _quiet()
    modules, shared = trust.take(arguments)
    reader, configs = _Reader(), list[Config]()
    for point in points:
        given = [*shared, *point.arguments]
        try:
            with trust.guarded(modules, given):
                check_files(given)
                registry().load()
                config = reader.parse(given)
                _check(config)
        except UserError as error:
            raise UserError(f"The point {point.named} cannot be run: {error}") from error
        configs.append(config)
    return configs


def part(config: Any) -> Any:
    """The object that ``class_path`` and ``init_args`` describe, parts within it too.

    Only for what ``resolve`` has read: nothing else is checked against what may be imported.
    """
    if isinstance(config, list):
        return [part(each) for each in config]
    if not isinstance(config, dict) or "class_path" not in config:
        return config
    module, _, name = str(config["class_path"]).rpartition(".")
    found = getattr(import_module(module), name) if module else _registered(name)
    return found(**{key: part(value) for key, value in (config.get("init_args") or {}).items()})


def seconds(config: Config) -> float:
    """Seconds of video that a config asks for, over all prompts."""
    return len(read_prompts(config["data"]["prompts"])) * float(config["data"]["seconds"])


def _registered(name: str) -> type:
    return next(part.load() for part in registry().parts.values() if part.name == name)


def _check(config: Config) -> None:
    """Builds what is quickly built."""
    for name in CHEAP:
        part(config["model"].get(name))
    data = {key: value for key, value in config["data"].items() if key != "clips"}
    read_prompts(RolloutData(**data).prompts or [])
    if not data.get("prompts"):
        raise UserError("There is nothing to roll: give data.prompts one prompt or more.")
