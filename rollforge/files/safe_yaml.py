"""Untrusted YAML: plain data only, and no more of it than a config needs.

Aliases are counted before anything is built: a file of a kilobyte can stand for a billion values, or contain itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import _loaders_dumpers, get_loader, set_loader

from rollforge.errors import UserError
from rollforge.files.reading import read_text
from rollforge.renamed import renamed

SIZE = 10_000_000  # bytes of a config
VALUES = 1_000_000  # that a config may stand for, with its aliases written out
DEPTH = 64  # mappings and lists inside each other
DIGITS = 250  # of a number; larger ones are no floats, whatever their base
NUMBER = re.compile(r"[-+.:_0-9a-fA-FxX]+")
PYTHON = "tag:yaml.org,2002:python/"
BAD = (ValueError, LookupError, AttributeError, TypeError)
"""What PyYAML raises for a value that is not what its tag says, as in ``!!timestamp 1``, ``!!bool maybe``."""

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_data(member.value))
"""Some of Lightning's callbacks have enumerated defaults, which a saved config must hold."""


def read(file: Path) -> Any:
    """The content of a YAML file, with today's names of keys and classes.

    Raises ``UserError`` for one that is none, too large, or not plain data.
    """
    return loads(read_text(file, SIZE, "config"), str(file))


def loads(text: str, name: str) -> Any:
    """The content of a config that is called ``name``, as ``read`` gives it."""
    return renamed(as_written(text, name))


def as_written(text: str, name: str) -> Any:
    """The content of a config, with the names that stand there. Raises ``UserError`` as ``read`` does."""
    try:
        check(text, f"The config {name}")
        return yaml.load(text, Loader)
    except (*BAD, yaml.YAMLError) as error:
        raise UserError(f"The config {name} is not readable YAML: {' '.join(str(error).split())}.") from error


def check(text: str, what: str) -> None:
    """Raises ``UserError`` for YAML that is too large or asks for objects of Python, ``yaml.YAMLError`` for none."""
    if len(text) > SIZE:
        raise UserError(f"{what} is larger than {SIZE // 1_000_000} MB; no config is, so give another file.")
    sizes: dict[str, int] = {}
    within: list[tuple[str | None, int]] = []  # anchor, and how many values so far
    event: Any
    for event in yaml.parse(text, Loader):
        anchor, size = getattr(event, "anchor", None), 1
        if (getattr(event, "tag", None) or "").startswith(PYTHON):
            raise UserError(f"{what} requests a Python object ({event.tag.removeprefix(PYTHON)}); write plain data.")
        if isinstance(event, yaml.CollectionStartEvent):
            within.append((anchor, 1))
            if len(within) > DEPTH:
                raise UserError(f"{what} nests deeper than {DEPTH} levels; no config does, so give another file.")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = within.pop()
        elif isinstance(event, yaml.AliasEvent):
            if anchor in (name for name, _ in within):
                raise UserError(f"{what} contains itself (*{anchor}); write plain data.")
            anchor, size = None, sizes.get(str(anchor), 1)
        elif not isinstance(event, yaml.ScalarEvent):
            continue
        elif len(event.value) > DIGITS and (event.implicit[0] or event.tag) and NUMBER.fullmatch(event.value):
            raise UserError(f"{what} holds a number of more than {DIGITS} digits; write plain data.")
        if anchor:
            sizes[anchor] = size
        if within:
            within[-1] = (within[-1][0], within[-1][1] + size)
        if size > VALUES:
            raise UserError(f"{what} stands for more than {VALUES:,} values; no config does, so give another file.")


@contextmanager
def guarded_loader(look: Callable[[Any], None] = lambda content: None) -> Iterator[None]:
    """In here jsonargparse reads YAML under these limits, from whatever file, option or value it comes.

    Args:
        look: sees all that is read, and may refuse it.
    """
    loader = get_loader("yaml")

    def load(stream: str) -> Any:
        check(stream, "A config or a value on the command line")
        try:
            content = renamed(loader(stream))
        except BAD as error:
            raise yaml.YAMLError(str(error)) from error
        look(content)
        return content

    def basic(value: str) -> Any:
        if len(value) > DIGITS and NUMBER.fullmatch(value):
            raise yaml.YAMLError(f"a number of more than {DIGITS} digits")
        return direct[1](value)

    set_loader("yaml", load, (yaml.YAMLError,))
    direct = _loaders_dumpers.yaml_load, _loaders_dumpers.load_basic
    _loaders_dumpers.yaml_load = load  # jsonargparse's ways past its own table, for texts where numbers are wanted
    _loaders_dumpers.load_basic = basic
    try:
        yield
    finally:
        _loaders_dumpers.yaml_load, _loaders_dumpers.load_basic = direct
        set_loader("yaml", loader, (yaml.YAMLError,))
