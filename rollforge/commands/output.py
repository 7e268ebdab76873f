"""What commands write to a terminal. Control characters in names from files and configs are written out."""

from __future__ import annotations

import logging
import sys

from rollforge.errors import printable


class PrintableFormatter(logging.Formatter):
    """Log records without the control characters of what they name."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def log_to_terminal() -> None:
    """Warnings of all loggers go to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def print_out(text: str) -> None:
    """Writes to standard output."""
    sys.stdout.write(printable(text))
    sys.stdout.flush()


def print_error(text: str) -> None:
    """Writes to standard error."""
    sys.stderr.write(printable(text))
