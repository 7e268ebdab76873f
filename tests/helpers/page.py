"""A docs page as a test: its blocks in order, then its pictures."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import SkipTest

from page_blocks import Block, parse
from page_pictures import parse_pictures
from sybil import Sybil
from sybil.parsers.markdown import SkipParser


@dataclass(frozen=True)
class Skipped:
    """A block that was not run, and why."""

    reason: str
    block: Block


class Page:
    """A page whose code is run by Sybil.

    Args:
        file: the page.
        pictures: whether its code makes the pictures that it shows.
    """

    def __init__(self, file: Path, pictures: bool = True) -> None:
        parsers = [parse, SkipParser(), *([parse_pictures] if pictures else [])]
        self.document = Sybil(parsers, path=str(file.parent)).parse(file)
        self.skipped: list[Skipped] = []

    def run(self, folder: Path, programs: Path | None = None) -> None:
        """Runs all of it in a folder. Raises at the first block that fails or prints something else than is shown.

        Commands are first looked for in ``programs``.
        """
        self.document.namespace |= {"__name__": "page", "__folder__": folder, "__programs__": programs}
        sys.path.insert(0, str(folder))  # as in a notebook
        try:
            for example in self.document.examples():
                try:
                    example.evaluate()
                except SkipTest as reason:
                    self.skipped.append(Skipped(str(reason), example.parsed))
        finally:
            sys.path.remove(str(folder))
            files = {name: str(getattr(module, "__file__", "")) for name, module in sys.modules.items()}
            for name in [name for name, file in files.items() if file.startswith(str(folder))]:
                del sys.modules[name]
