"""The parser of the commands that are not Lightning's."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, get_args

from rollforge.errors import UserError
from rollforge.ranges import Range


class Arguments(argparse.ArgumentParser):
    """A parser whose errors are one sentence, and whose options are written out."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Raises ``UserError``; never prints usage."""
        raise UserError(f"{self.prog}: {message}; see: {self.prog} --help.")


def number(kind: Any) -> Callable[[str], Any]:
    """The ``type`` of an option whose value is a number in a range, e.g. ``number(Count)``."""
    base, limits = next((base, rule) for base, *rules in [get_args(kind)] for rule in rules if isinstance(rule, Range))

    def read(text: str) -> Any:
        try:
            return limits.fit("", base, base(text))
        except (ValueError, UserError) as error:
            raise argparse.ArgumentTypeError(f"must be {limits.expected(base)}, not {text!r:.60}") from error

    return read


def path(text: str) -> str:
    """The ``type`` of an option whose value is a path; ``~`` is the home folder."""
    return os.path.expanduser(text)


def file(text: str) -> Path:
    """As ``path``, for what takes a ``Path``."""
    return Path(path(text))


def device(text: str) -> str:
    """The ``type`` of an option whose value is a device of this machine."""
    import torch

    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not a device of this machine; use cpu or cuda:0") from error
    return text
