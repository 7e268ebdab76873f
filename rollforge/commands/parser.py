"""The parser of configs and of the options that override them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from rollforge.commands.checks import check
from rollforge.commands.other_class import own_defaults
from rollforge.commands.sentences import sentence
from rollforge.errors import UserError, nearest
from rollforge.files import safe_yaml
from rollforge.trust.imports import OPTION, VARIABLE, check_classes

SECTIONS = (
    *("model", "data", "trainer", "seed_everything", "output_dir", "overwrite", "report_every", "reference"),
    *("resume", "force", "snapshots"),
    *("ckpt_path", "weights_only", "verbose", "return_predictions"),
)
FILLED = ("model", "data", "trainer", "snapshots")
"""Sections that are there as keys and values, or not at all."""
TYPED = "a config"
"""What a config is called that is not a file: typed, or read from standard input."""


class Parser(LightningArgumentParser):
    """A parser whose errors are for people. Options are written out, and every config is checked before it is used.

    To be used in ``trust.guarded``.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **options})
        self.reading = ""
        self.options: list[str] = []
        """Of the Trainer's method that the command runs."""

    def parse_args(self, *arguments: Any, **options: Any) -> Any:
        """The config, its numbers checked and ``~`` in its paths resolved."""
        with own_defaults():
            return super().parse_args(*arguments, **options)

    def validate(self, namespace: Any, *arguments: Any, **options: Any) -> None:
        """Our checks come first: their sentences say more."""
        check(namespace)
        super().validate(namespace, *arguments, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises ``UserError``; never prints usage."""
        options = [option for action in self._actions for option in action.option_strings]
        raise UserError(sentence(message, options, self.reading)) from ex

    def parse_path(self, path: Any, *arguments: Any, **options: Any) -> Any:
        """A config file, however it was named. Raises ``UserError`` for one that is not text, or too large."""
        file = Path(os.path.expanduser(path))
        self.reading = str(path)
        try:
            if file.is_file():
                safe_yaml.read(file)
            return super().parse_path(path, *arguments, **options)
        finally:
            self.reading = ""

    def parse_string(self, content: str, *arguments: Any, **options: Any) -> Any:
        """The content of a config file, of standard input, or of an option."""
        self.reading = self.reading or TYPED
        check_content(safe_yaml.loads(content, self.reading), self.reading)
        try:
            return super().parse_string(content, *arguments, **options)
        finally:
            self.reading = ""


def check_content(content: Any, name: str) -> None:
    """Raises ``UserError`` for a config that is not a mapping of known sections, or names what it may not."""
    if not isinstance(content, dict):
        raise UserError(f"The config {name} must hold keys such as model: and data:, not {content!r:.60}.")
    if "trust" in content:
        raise UserError(f"{name} cannot say what is trusted; only {OPTION} on the command line and {VARIABLE} can.")
    for key in content:
        if key not in SECTIONS:  # the parser itself lets an unknown key with nothing in it pass
            raise UserError(f"There is no key {key!r} in {name}.{nearest(str(key), SECTIONS)}")
        if key in FILLED and content[key] is None:
            raise UserError(f"The section {key} in {name} is empty; write keys under it, or leave it out.")
        if key in FILLED and not isinstance(content[key], (dict, str)):  # a text names a file
            raise UserError(f"The section {key} in {name} must hold keys, not {content[key]!r:.60}.")
    check_classes(content, name)
