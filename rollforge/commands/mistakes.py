"""A parser whose errors are one sentence, and configs that are looked at before it reads them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from rollforge.commands.checks import check
from rollforge.commands.sentences import sentence
from rollforge.errors import UserError, nearest
from rollforge.safe_yaml import read
from rollforge.trust import OPTION, VARIABLE, refusal, refused

SECTIONS = (
    *("model", "data", "trainer", "seed_everything", "output_dir", "overwrite", "report_every"),
    *("resume", "force", "snapshots"),
    *("ckpt_path", "weights_only", "verbose", "return_predictions"),
)
FILLED = ("model", "data", "trainer", "snapshots")
"""Sections that are there as keys and values, or not at all."""


class Parser(LightningArgumentParser):
    """A parser whose errors are for people."""

    def parse_args(self, *arguments: Any, **options: Any) -> Any:
        """The config, its numbers checked and ``~`` in its paths resolved."""
        config = super().parse_args(*arguments, **options)
        check(config)
        return config

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises ``UserError``; never prints usage."""
        raise UserError(sentence(message, self._options())) from ex

    def _options(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings]


def check_files(arguments: Sequence[str]) -> None:
    """Raises ``UserError`` for a ``--config`` file that is there and is no YAML mapping of known sections, and for a
    class anywhere in the files or options that may not be imported. Call it in ``trust.guarded``."""
    given = [("--config", argument.partition("=")[2]) for argument in arguments if argument.startswith("--config=")]
    given += [(option, value) for option, value in pairwise(arguments) if option in ("--config", "-c")]
    for _, value in given:
        if re.match(r"\w[\w+.-]*://", value):
            raise UserError(f"The config {value} is on another machine; fetch it, read it, and give the file.")
        file = Path(value)
        if os.path.isfile(file):
            content = read(file)
            _check_keys(content, file)
            _check_classes(content, file, (file,))
    for option, _, value in (argument.partition("=") for argument in _joined(arguments)):
        if option.endswith(".class_path") and refused_path(value):
            raise UserError(refusal(value, option))
        if option != "--config":
            _check_classes(value, Path(), ())


def refused_path(value: Any) -> bool:
    """Whether a value would be imported, and may not be."""
    return isinstance(value, str) and "." in value and refused(value)


def _check_keys(content: Any, file: Path) -> None:
    if not isinstance(content, dict):
        raise UserError(f"The config {file} must hold keys such as model: and data:, not {content!r:.60}.")
    if "trust" in content:
        raise UserError(f"{file} cannot say what is trusted; only {OPTION} on the command line and {VARIABLE} can.")
    if content.get("weights_only", True) not in (True, None):
        raise UserError(f"{file} cannot switch weights_only off; only --weights_only false on the command line can.")
    for key in content:
        if key not in SECTIONS:  # the parser itself lets an unknown key with nothing in it pass
            raise UserError(f"There is no key {key!r} in {file}.{nearest(str(key), SECTIONS)}")
        if key in FILLED and content[key] is None:
            raise UserError(f"The section {key} in {file} is empty; write keys under it, or leave it out.")
        if key in FILLED and not isinstance(content[key], (dict, str)):  # a text names a file
            raise UserError(f"The section {key} in {file} must hold keys, not {content[key]!r:.60}.")


def _check_classes(content: Any, file: Path, within: tuple[Path, ...], at: str = "") -> None:
    """Looks at every ``class_path``, in configs that this one names too."""
    if isinstance(content, list):
        for each in content:
            _check_classes(each, file, within, at)
    elif isinstance(content, dict):
        if refused_path(path := content.get("class_path")):
            raise UserError(refusal(str(path), f"{file} at {at}" if at else str(file)))
        for key, each in content.items():
            _check_classes(each, file, within, f"{at}.{key}".lstrip("."))
    elif isinstance(content, str) and content.endswith((".yaml", ".yml", ".json")) and ".index." not in content:
        for nested in (file.parent / content, Path(content)):
            if os.path.isfile(nested) and nested not in within:  # pathlib raises for what is longer than a name can be
                _check_classes(read(nested), nested, (*within, nested))


def _joined(arguments: Sequence[str]) -> list[str]:
    """Every option as ``--option=value``."""
    pairs = [f"{option}={value}" for option, value in pairwise(arguments) if option.startswith("--")]
    return [*pairs, *(argument for argument in arguments if argument.startswith("--"))]
