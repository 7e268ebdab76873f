"""The parts of a config, for commands that need some of them and no Trainer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jsonargparse import Namespace

from rollforge import trust
from rollforge.commands.parsed import ParsedCLI
from rollforge.commands.typed import read
from rollforge.doctor.parts import TYPES, build, built
from rollforge.registry import Part


class ConfigParts:
    """A parsed config, whose parts are built one by one."""

    def __init__(self, chosen: Any) -> None:
        self.chosen = chosen

    def build(self, name: str) -> Any:
        """The part at ``model.NAME``; None where the config leaves it out. Raises ``UserError`` if it fails."""
        return build(name, self.chosen.model.get(name))

    def named(self, part: Part) -> Any:
        """That part as the config has it, wherever it names it first; None where it does not."""
        found = (each for each in _classes([self.chosen.model, self.chosen.data]) if _name(each) == part.name)
        kind = TYPES["memory"] if part.kind == "memory" else part.base  # a config names what makes memories
        return next((built(kind, each) for each in found), None)


def _classes(value: Any) -> Iterator[Namespace]:
    """The classes that a config names, those that are arguments of others after these."""
    inner = vars(value).values() if isinstance(value, Namespace) else value if isinstance(value, list) else ()
    for each in inner:
        if isinstance(each, Namespace) and "class_path" in each:
            yield each
    for each in inner:
        yield from _classes(each)


def _name(chosen: Namespace) -> str:
    return str(chosen.class_path).rpartition(".")[2]


@contextmanager
def parts_of(config: Sequence[str], rest: Sequence[str] = ()) -> Iterator[ConfigParts]:
    """Reads what ``predict`` takes. Parts are built in here, where only what is trusted is imported."""
    typed = read([*(f"--config={file}" for file in config), *rest])
    with trust.guarded(typed.modules):
        yield ConfigParts(ParsedCLI("predict", typed).chosen)
