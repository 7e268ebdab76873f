"""Signals, handled between blocks or steps: the first saves and stops, the second stops at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class SignalHandler:
    """Whether a signal has requested a stop. Installed after Lightning's own handlers, which swallow SIGTERM.

    ``due`` is the time in seconds that finishing is expected to take; the caller keeps it up to date.

    Args:
        work: what is finished before stopping, in a word.
    """

    def __init__(self, work: str = "block") -> None:
        self.work = work
        self.asked: signal.Signals | None = None
        self.due: float | None = None
        self.quiet = False
        self.together: Callable[[int], int] | None = None  # the highest number of all processes of a video
        self._former: dict[signal.Signals, Any] = {}

    @property
    def code(self) -> int:
        """The exit code of the signal: 130 for SIGINT, 143 for SIGTERM, 138 for SIGUSR1."""
        return 128 + (self.asked or signal.SIGINT)

    def exit_if_requested(self) -> None:
        """Raises ``SystemExit`` after a signal. For places where nothing is lost by stopping."""
        if self.asked:
            raise SystemExit(self.code)

    def agree(self) -> bool:
        """Whether a stop was requested from any of the processes of a video, each of which must call this."""
        if self.together and (number := self.together(self.asked or 0)):
            self.asked = self.asked or signal.Signals(number)
            return True
        return bool(self.asked) and self.together is None

    def exit_together(self) -> None:
        """As ``exit_if_requested``, for all processes of a video, each of which must call this."""
        if self.agree():
            self.exit_if_requested()

    def install(self) -> None:
        """Installs the handlers, again if others have replaced them; only in the main thread."""
        if threading.current_thread() is threading.main_thread():
            former = {each: signal.signal(each, self._on_signal) for each in HEARD}
            self._former = self._former or former

    def remove(self) -> None:
        """Restores the previous handlers, unless others have been installed since, as Lightning may."""
        for each, handler in self._former.items():
            if signal.getsignal(each) == self._on_signal:
                signal.signal(each, handler)
        self._former = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.asked and self.quiet:
            return  # rank 0 has passed on what this process had heard by itself; with rank 0 it ends at once
        if self.asked:
            os._exit(128 + number)
        self.asked = signal.Signals(number)
        if not self.quiet:
            about = "" if self.due is None else f" (about {max(1, round(self.due))} s)"
            message = f"{self.asked.name}: finishing this {self.work} and saving{about}; once more to stop at once."
            with suppress(OSError):
                os.write(2, f"\nrollforge: {message}\n".encode())  # sys.stderr may be in the middle of another write
