"""What is varied: options with the values they take, and the points that all their combinations make."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import yaml

from rollforge.errors import UserError
from rollforge.files import safe_yaml

CONFIG = "config"
"""As an option, whole configs."""
PLAIN = ("policy", "sampler", "backbone", "objective")
"""Options whose values are names that say what they are."""
FILES = (".yaml", ".yml", ".json")
FORM = "write --vary OPTION=VALUE,VALUE,..., as in --vary model.policy=RollingSink,Window"
OPENING, CLOSING, QUOTES = "[{(", "]})", "'\""
MOST = 1000


@dataclass(frozen=True)
class Choice:
    """One value of one option: ``value`` as on the command line, ``label`` as displayed."""

    option: str
    value: str
    label: str

    @property
    def title(self) -> str:
        """The value; where that is ambiguous, with the last word of the option."""
        speaks = self.option == CONFIG or self.option.rpartition(".")[2] in (
            "policy",
            "sampler",
            "backbone",
            "objective",
        )
        return self.label if speaks else f"{self.option.rpartition('.')[2]}={self.label}"


@dataclass(frozen=True)
class Point:
    """One value for each of the options that are varied."""

    choices: tuple[Choice, ...]

    @property
    def label(self) -> str:
        """Its name in tables and figures."""
        return ", ".join(choice.title for choice in self.choices)

    @property
    def slug(self) -> str:
        """The label as the beginning of a folder's name."""
        return re.sub(r"[^A-Za-z0-9.=]+", "-", self.label).strip("-.")[:60].rstrip("-.") or "point"

    @property
    def named(self) -> str:
        """What the command line would say, for errors."""
        return ", ".join(f"{choice.option}={choice.label}" for choice in self.choices)

    @property
    def arguments(self) -> list[str]:
        """Its options for ``rollforge test``."""
        return [f"--{choice.option}={choice.value}" for choice in self.choices]

    def line(self, configs: Sequence[str], options: Sequence[str]) -> list[str]:
        """All arguments of its ``rollforge test``: an option wins over every file, what is varied over what is shared.

        A part that is varied comes before shared options that refine it: another class drops the arguments before it.

        Args:
            configs: files that all points share.
            options: options that all points share.
        """
        files = [*configs, *(choice.value for choice in self.choices if choice.option == CONFIG)]
        own = {
            argument: any(option.startswith(f"--{choice.option}.") for option in options)
            for argument, choice in zip(self.arguments, self.choices, strict=True)
            if choice.option != CONFIG
        }
        before, after = ([argument for argument, refined in own.items() if refined is early] for early in (True, False))
        return [*(f"--{CONFIG}={file}" for file in files), *before, *options, *after]


def points(varied: Sequence[str]) -> list[Point]:
    """Every combination of the values of ``OPTION=VALUE,...`` axes, the last axis moving fastest.

    Raises:
        UserError: for an axis that cannot be read, a value or an option given twice, and too many points.
    """
    axes = [axis(text) for text in varied]
    options = [choices[0].option for choices in axes]
    if twice := next((option for n, option in enumerate(options) if option in options[:n]), None):
        raise UserError(f"--vary names {twice} twice; put all of its values into one --vary.")
    if (count := prod(map(len, axes))) > MOST:
        raise UserError(f"--vary makes {count} points; expected at most {MOST}, so leave values out.")
    return [Point(choices) for choices in product(*axes)]


def axis(text: str) -> list[Choice]:
    """The values of one ``OPTION=VALUE,VALUE,...``. One list in brackets is the list of the values."""
    option, _, listed = text.removeprefix("--").partition("=")
    option = option.strip()
    if not re.fullmatch(r"\w+(\.\w+)*", option) or not listed.strip():
        raise UserError(f"--vary got {text!r}; {FORM}.")
    given = list(_split(listed, text))
    if len(given) == 1 and given[0].startswith("["):
        values = _yaml(given[0], text)
        given = [each if isinstance(each, str) else json.dumps(each) for each in values]
    given = [os.path.expanduser(each) if each.startswith("~/") else each for each in given]
    labels = [_label(value) for value in given]
    if len(set(labels)) < len(labels):
        labels = given
    if twice := next((label for n, label in enumerate(labels) if label in labels[:n]), None):
        raise UserError(f"--vary {option} names the value {twice} twice; leave one out.")
    if not given:
        raise UserError(f"--vary got {text!r}, which names no value; {FORM}.")
    choices = [Choice(option, value, label) for value, label in zip(given, labels, strict=True)]
    if missing := next((each.value for each in choices if _is_file(each) and not Path(each.value).is_file()), None):
        raise UserError(f"--vary {option} names the file {missing}, which is not there.")
    return choices


def _is_file(choice: Choice) -> bool:
    return choice.option == CONFIG or ("{" not in choice.value and choice.value.endswith(FILES))


def _split(listed: str, text: str) -> Iterator[str]:
    """Values between commas, but for commas within brackets and quotes."""
    start, quote, within = 0, "", list[str]()
    for n, letter in enumerate(listed + ","):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in QUOTES and (within or not listed[start:n].strip()):  # elsewhere it is an apostrophe
            quote = letter
        elif letter in OPENING:
            within.append(CLOSING[OPENING.index(letter)])
        elif within and letter == within[-1]:
            within.pop()
        elif letter == "," and not within:
            if value := listed[start:n].strip():
                yield value
            start = n + 1
    if within or quote:
        raise UserError(f"--vary got {text!r}, in which {quote or within[-1]} is missing; close what is open.")


def _yaml(value: str, text: str) -> list[Any]:
    try:
        safe_yaml.check(value, "--vary")
        loaded = yaml.load(value, safe_yaml.Loader)
    except (*safe_yaml.BAD, yaml.YAMLError) as error:
        raise UserError(f"--vary got {text!r}, whose list is not readable YAML; {FORM}.") from error
    return loaded if isinstance(loaded, list) else [loaded]


def _label(value: str) -> str:
    """A file's name without its ending, a part with its arguments, else the value itself."""
    if value.startswith("{"):
        try:
            loaded = yaml.load(value, safe_yaml.Loader)
            name = str(loaded["class_path"]).rpartition(".")[2]
            given = ", ".join(f"{key}={each}" for key, each in (loaded.get("init_args") or {}).items())
        except (*safe_yaml.BAD, yaml.YAMLError):
            return value
        return f"{name}({given})" if given else name
    return Path(value).stem if value.endswith(FILES) else value
