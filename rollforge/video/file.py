"""The file under a video: it never forgets that a write failed."""

from __future__ import annotations

import os
from pathlib import Path


class AppendOnly:
    """An unbuffered file whose first error is final: every later ``write`` and the last ``sync`` raise it again.

    FFmpeg, given a path, forgets an error that it meets while closing the file, and a disk that fills up in the last
    moment would pass for success.
    """

    def __init__(self, path: Path) -> None:
        self._raw = path.open("wb", buffering=0)
        self._error: OSError | None = None

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._raw.closed

    def write(self, data: bytes) -> int:
        """Writes all of ``data``; raises ``OSError`` now and for ever once the file takes no more."""
        if self._error:
            raise self._error
        left = memoryview(data)
        try:
            while left:
                left = left[self._raw.write(left) :]
        except OSError as error:
            self._error = error
            raise
        return len(data)

    def sync(self) -> None:
        """Returns when all bytes are on the disk; raises the error that ``write`` met, if any."""
        if self._error:
            raise self._error
        os.fsync(self._raw.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._raw.close()
