"""Turns what jsonargparse says about a config into one sentence with the nearest valid spelling."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from rollforge.data.module import RolloutData
from rollforge.errors import UserError, nearest
from rollforge.module import RolloutModule
from rollforge.registry import registry

SECTIONS = (
    *("model", "data", "trainer", "seed_everything", "output_dir", "overwrite", "report_every"),
    *("ckpt_path", "weights_only", "verbose", "return_predictions"),
)


class Parser(LightningArgumentParser):
    """A parser whose errors are for people."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises ``UserError``; never prints usage."""
        raise UserError(sentence(message, self._options())) from ex

    def _options(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings]


def check_files(arguments: Sequence[str]) -> None:
    """Raises ``UserError`` for a ``--config`` file that is there and is no YAML mapping of known sections."""
    values = [value for option, value in pairwise(arguments) if option in ("--config", "-c")]
    values += [argument.partition("=")[2] for argument in arguments if argument.startswith("--config=")]
    for file in map(Path, values):
        if file.is_file():
            try:
                content = yaml.safe_load(file.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise UserError(f"The config {file} is not readable YAML: {' '.join(str(error).split())}.") from error
            if not isinstance(content, dict):
                raise UserError(f"The config {file} must hold keys such as model: and data:, not {content!r:.60}.")
            for key in content:
                if key not in SECTIONS:  # the parser itself lets an unknown key with nothing in it pass
                    raise UserError(f"There is no key {key!r} in {file}.{nearest(str(key), SECTIONS)}")


def sentence(message: str, options: Iterable[str] = ()) -> str:
    """One sentence for a message of jsonargparse."""
    where = f" at {key[1]}" if (key := re.search(r'Parser key "([^"]+)"', message)) else ""
    if found := re.search(r"unrecognized arguments?: (\S+)", message):
        return f"There is no option {found[1]}.{nearest(found[1].split('=')[0], options)}"
    if found := re.search(r"(?:does not accept option|Key|Option|option) '([^']+)'", message):
        return _unknown_key(found[1], where)
    if found := re.search(
        r"(?:Expected a dot import path string|[Uu]nexpected class_path|Import path)\W*'?([\w.]+)", message
    ):
        return _unknown_part(found[1], where)
    if found := re.search(r"File does not exist: '?([^'\n]+)'?", message):
        return f"There is no file {found[1]}."
    if found := re.search(r"Not a valid subclass of (\w+)\. Got value: (.*)", message):
        return f"{where[4:]} must name a part (class_path and init_args), not {found[2]}. See: rollforge plugins."
    if found := re.search(r"Expected an? (?:<class '(\w+)'>|(\S+))\. Got value: (.*)", message):
        return f"{where[4:] or 'A value'} must be a {found[1] or found[2]}, not {found[3].strip()!r}."
    return " ".join(message.split())


def _unknown_key(path: str, where: str) -> str:
    """The first part of a dotted path that is no key of anything."""
    known = _keys()
    steps = path.split(".")
    wrong = next((n for n, step in enumerate(steps) if step not in known), len(steps) - 1)
    where = f" at {'.'.join(steps[:wrong])}" if wrong else where
    return f"There is no key {steps[wrong]!r}{where}.{nearest(steps[wrong], known)}"


def _unknown_part(name: str, where: str) -> str:
    parts = {part.name: part for part in registry().parts.values()}
    if name in parts:
        return f"{name!r} does not fit{where}: it is a {parts[name].kind}. See: rollforge plugins."
    return f"There is no part called {name!r}{where}.{nearest(name, parts)} See: rollforge plugins."


def _keys() -> list[str]:
    """Every key that the config of some part can have."""
    targets = [RolloutModule, RolloutData, Trainer, *(part.load() for part in registry().parts.values())]
    sections = ["model", "data", "trainer", "output_dir", "overwrite", "seed_everything", "class_path", "init_args"]
    return [*sections, *(name for target in targets for name in inspect.signature(target).parameters)]
