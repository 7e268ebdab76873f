"""The current folder is data: untrusted files may lie in it. Nothing there is imported, or read as settings."""

from __future__ import annotations

import os
import sys
from contextlib import chdir, suppress
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
"""Where this package was imported from."""


def leave_current_folder_out() -> None:
    """Takes the current folder, which ``python -m`` puts first, from the places that modules are imported from."""
    with suppress(OSError):
        here = os.path.realpath(os.getcwd())
        first = os.path.realpath(sys.path[0]) if sys.path and not sys.flags.safe_path else None
        if first == here != str(HOME):
            del sys.path[0]


def safe_environment() -> dict[str, str]:
    """Environment variables for child processes: Python does not put their current folder first either.

    Empty where this package itself lies in the current folder.
    """
    with suppress(OSError):
        return {} if os.path.realpath(os.getcwd()) == str(HOME) else {"PYTHONSAFEPATH": "1"}
    return {}


def import_matplotlib() -> None:
    """Imports matplotlib away from the current folder, whose ``matplotlibrc`` it would read.

    To be called before anything else that imports it, such as Lightning.
    """
    with suppress(ImportError, OSError), chdir(HOME / "rollforge"):
        import matplotlib  # noqa: F401
