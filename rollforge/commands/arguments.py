"""The parser of the commands that are not Lightning's."""

from __future__ import annotations

import argparse
from typing import NoReturn

from rollforge.errors import UserError


class Arguments(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raises ``UserError``; never prints usage."""
        raise UserError(f"{self.prog}: {message}; see: {self.prog} --help.")
