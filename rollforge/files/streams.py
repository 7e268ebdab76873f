"""Standard output and error that may be closed, full, or read by nobody: work continues regardless."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Tolerant:
    """A text stream that stops writing at its first error, which is stored in ``error``."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Writes as long as that is possible."""
        if self.error is None:
            try:
                self.stream.write(text)
            except OSError as error:
                self._silence(error)
        return len(text)

    def flush(self) -> None:
        """Flushes as long as that is possible."""
        if self.error is None:
            try:
                self.stream.flush()
            except OSError as error:
                self._silence(error)

    def _silence(self, error: OSError) -> None:
        self.error = error
        with open(os.devnull, "w") as nowhere:  # where the interpreter flushes at its end what is still in the buffer
            os.dup2(nowhere.fileno(), self.stream.fileno())


@contextmanager
def tolerant() -> Iterator[None]:
    """Around a whole process. Leaves with exit code 2 and one sentence where standard output could not be written.

    If nobody reads it any more, as with ``| head``, that is not an error.
    """
    _open_closed()
    sys.stdout, sys.stderr = output, _ = Tolerant(sys.stdout), Tolerant(sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a terminal that is not in UTF-8
    try:
        yield
    finally:
        sys.stdout.flush()
        if output.error is not None and output.error.errno != errno.EPIPE:
            sys.stderr.write(
                f"rollforge: Standard output cannot be written ({output.error.strerror}); the files of the run are not "
                "affected.\n"
            )
            raise SystemExit(2)


def _open_closed() -> None:
    """Opens /dev/null for each standard stream that was closed, or the next file to be opened would get its number."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, os.fdopen(number, mode))
