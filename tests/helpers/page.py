"""A docs page as a test: its blocks in order, then its pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import SkipTest

from page_blocks import parse
from page_pictures import parse_pictures
from sybil import Sybil
from sybil.parsers.markdown import SkipParser


class Page:
    """A page whose code is run by Sybil.

    Args:
        file: the page.
    """

    def __init__(self, file: Path) -> None:
        parsers = [parse, SkipParser(), parse_pictures]
        self.document = Sybil(parsers, path=str(file.parent)).parse(file)
        self.skipped: list[str] = []

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
                    self.skipped.append(str(reason))
        finally:
            sys.path.remove(str(folder))
            files = {name: str(getattr(module, "__file__", "")) for name, module in sys.modules.items()}
            for name in [name for name, file in files.items() if file.startswith(str(folder))]:
                del sys.modules[name]
