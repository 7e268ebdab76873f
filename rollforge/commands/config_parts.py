"""The parts of a config, for commands that need some of them and no Trainer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jsonargparse import Namespace

from rollforge import trust
from rollforge.commands.parsed import ParsedCLI
from rollforge.commands.typed import read
from rollforge.doctor.parts import build


class ConfigParts:
    """A parsed config, whose parts are built one by one."""

    def __init__(self, chosen: Any) -> None:
        self.chosen = chosen

    def build(self, name: str) -> Any:
        """The part at ``model.NAME``; None where the config leaves it out. Raises ``UserError`` if it fails."""
        return build(name, self.chosen.model.get(name))

    def named(self, part: str) -> Any:
        """The first part whose class is called ``part``, built; None where the config has none."""
        for name, section in vars(self.chosen.model).items():
            for each in section if isinstance(section, list) else [section]:
                if isinstance(each, Namespace) and str(each.get("class_path")).rpartition(".")[2] == part:
                    return build(name, [each])[0] if isinstance(section, list) else build(name, each)
        return None


@contextmanager
def parts_of(config: Sequence[str], rest: Sequence[str] = ()) -> Iterator[ConfigParts]:
    """Reads what ``predict`` takes. Parts are built in here, where only what is trusted is imported."""
    typed = read([*(f"--config={file}" for file in config), *rest])
    with trust.guarded(typed.modules):
        yield ConfigParts(ParsedCLI("predict", typed).chosen)
