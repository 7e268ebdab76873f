"""The commands of a docs page that are not run: the real parsers still read them.

Such a block has ``<!--- skip: next "REASON" -->`` before it. A shell fills in its variables, and programs of the same
names write down what they were given.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rollforge import trust
from rollforge.cli import main
from rollforge.commands.arguments import Arguments
from rollforge.commands.fit_other import FitCLI, names_module
from rollforge.commands.lightning import _quiet
from rollforge.commands.parsed import ParsedCLI
from rollforge.commands.typed import read
from rollforge.comparison.vary import CONFIG, Point, points

PROGRAMS = ("rollforge", "make", "pip", "pytest", "scontrol", "srun")
"""What such a block may call, besides the tools of a shell."""
RECORDER = """#!{python} -IS
import json, os, sys
with open(os.environ["RECORDED"], "a") as file:
    print(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]), file=file)
if sys.argv[0].endswith("srun"):
    os.execvp(sys.argv[1], sys.argv[1:])
"""


def recorded(code: str, folder: Path, programs: Path) -> list[list[str]]:
    """The programs that a block calls, with their arguments. ``programs`` is a folder for stand-ins."""
    record = programs / "recorded"
    record.unlink(missing_ok=True)
    for name in PROGRAMS:
        (programs / name).write_text(RECORDER.format(python=sys.executable))
        (programs / name).chmod(0o755)
    env = {"PATH": f"{programs}:/usr/bin:/bin", "RECORDED": str(record)}
    done = subprocess.run(["bash", "-euc", code], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert not done.returncode, f"{code}\n{done.stderr}"
    return [json.loads(line) for line in record.read_text().splitlines()] if record.is_file() else []


class ParsedOther(ParsedCLI, FitCLI):
    """``fit`` of a module that a plugin brings."""


class Parsed(BaseException):
    """A command line was read; its work would begin now."""


class DryRun:
    """Reads command lines of rollforge as the command does, and stops there. To be closed."""

    def __init__(self) -> None:
        self.held = ExitStack()
        self.readers: dict[tuple[str, type[ParsedCLI]], ParsedCLI] = {}
        _quiet()

    def read(self, command: str, *rest: str) -> None:
        """Raises for a command line that ``rollforge`` would refuse, with what it would say."""
        if command in ("predict", "fit") or (command == "test" and "--config" in rest):
            return self._lightning(command, list(rest))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Arguments, "parse_known_args", _parse_known_args)
            try:
                code = main([command, *rest])
            except Parsed as parsed:
                chosen, more = parsed.args
            else:
                raise AssertionError(f"rollforge {command} {' '.join(rest)}: exit code {code}")
        if command == "compare":
            for point in every_value(points(chosen.vary)):
                self._lightning("test", point.line(chosen.config, more))
        elif more:
            config = chosen.config if isinstance(chosen.config, list) else [chosen.config]
            self._lightning("predict", [*(f"--config={file}" for file in config), *more])
        return None

    def close(self) -> None:
        self.held.close()

    def _lightning(self, command: str, arguments: list[str]) -> None:
        typed = read(arguments)
        kind = ParsedOther if command == "fit" and names_module(arguments) else ParsedCLI
        if (command, kind) not in self.readers:  # building the parser is what takes long
            self.held.enter_context(trust.guarded())
            self.readers[command, kind] = kind(command, typed)
        self.readers[command, kind].read(typed)


PARSE = Arguments.parse_known_args


def _parse_known_args(self: Arguments, *given: Any, **named: Any) -> tuple[argparse.Namespace, list[str]]:
    """argparse's, which ends the command where all of its options are read."""
    found = PARSE(self, *given, **named)
    if self.prog == "rollforge" or not self.add_help:  # the name of the command, and what sorts two kinds of `test`
        return found
    raise Parsed(*found)


def every_value(made: Sequence[Point]) -> Iterator[Point]:
    """Of all combinations as few as have every value, and the first of several whole configs, whose files must be."""
    seen: set[tuple[str, str]] = set()
    for point in made:
        values = {(choice.option, choice.value) for choice in point.choices}
        files = [Path(value) for option, value in values if option == CONFIG]
        assert all(file.is_file() for file in files), files
        if values - seen and not (files and seen):
            yield point
        seen |= values


def targets(makefile: Path) -> set[str]:
    """The targets of a Makefile."""
    return {line.partition(":")[0] for line in makefile.read_text().splitlines() if line[:1].isalpha() and ":" in line}
