"""Guards the import of plugins: if one fails, the command continues without it."""

from __future__ import annotations

import io
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

SECONDS = 60.0
"""How long the import of a plugin, or of one of its parts, may take."""


class PluginError(Exception):
    """Why a plugin, or a part of one, cannot be used."""


class TooSlow(BaseException):
    """Not an ``Exception``, which the plugin may catch."""


@contextmanager
def guarded(origin: str, warn: Callable[[str], None]) -> Iterator[None]:
    """Runs code of a plugin. What it prints is kept from standard output.

    Args:
        origin: the plugin.
        warn: called with a sentence about what it printed.

    Raises:
        PluginError: for any exception, ``SystemExit`` included, and for code that takes longer than ``SECONDS``.
    """
    printed = io.StringIO()
    try:
        with redirect_stdout(printed), _limited(SECONDS):
            yield
    except KeyboardInterrupt:
        raise
    except PluginError:
        raise
    except BaseException as error:
        raise PluginError(_reason(error)) from error
    finally:
        if text := printed.getvalue().strip():
            warn(
                f"{origin} prints when it is imported; it should not, and this was left out: {text.splitlines()[0]:.80}"
            )


def _reason(error: BaseException) -> str:
    """The error and its cause, on one line."""
    message = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{message}, caused by {_reason(error.__cause__)}" if error.__cause__ else message


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raises ``TooSlow`` in what takes longer. No limit outside the main thread, and where there is no alarm."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(number: int, frame: Any) -> None:
        raise TooSlow(f"it takes more than {seconds:g} seconds")

    former = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
