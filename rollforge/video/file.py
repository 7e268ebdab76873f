"""The file of a video: after a failed write, all later ones fail."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

from rollforge.files.writing import open_new, open_own

CHUNK = 1 << 20  # bytes


class AppendOnly:
    """An unbuffered file whose first error is final: every later ``write`` and the last ``sync`` raise it again.

    FFmpeg, given a path, drops an error that it meets while closing the file, and a disk that fills up in the last
    moment would pass for success.

    Args:
        path: the file; existing content is removed, unless some of it is kept.
        keep: bytes of the existing file to continue after. Until ``cut`` it stays as it is, and what is written is
            only compared with its beginning: a muxer starts with the header that such a file already has.

    Attributes:
        size: bytes written, with those kept; fewer than ``keep`` where the file is shorter.
        repeats: whether all that was written before ``cut`` is there already.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        self._path = path
        self._raw = open_own(path, buffering=0) if keep else open_new(path, buffering=0)
        self._error: OSError | None = None
        self._digest, self.size, self.repeats = sha256(), 0, True
        self._compared: int | None = 0 if keep else None
        while data := self._raw.read(min(CHUNK, keep - self.size)) if keep else b"":
            self._took(data)

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._raw.closed

    @property
    def sha256(self) -> str:
        """Of the first ``size`` bytes, in hexadecimal."""
        return self._digest.hexdigest()

    @property
    def there(self) -> bool:
        """Whether the path still leads to this file, and not to another one or nowhere."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._raw.fileno()))
        except OSError:
            return False

    def write(self, data: bytes) -> int:
        """Writes all of ``data``; raises ``OSError`` in this and every later call once a write failed."""
        if self._error:
            raise self._error
        if self._compared is not None:
            return self._compare(data, self._compared)
        left = memoryview(data)
        try:
            while left:
                done = self._raw.write(left)
                self._took(left[:done])
                left = left[done:]
        except OSError as error:
            self._error = error
            raise
        return len(data)

    def cut(self) -> None:
        """Drops what the file holds beyond ``keep``; from here on it grows."""
        self._compared = None
        self._raw.seek(self.size)
        self._raw.truncate()

    def sync(self) -> None:
        """Returns when all bytes are on the disk; raises the error that ``write`` met, if any."""
        if self._error:
            raise self._error
        os.fsync(self._raw.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._raw.close()

    def _took(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self.size += len(data)

    def _compare(self, data: bytes, start: int) -> int:
        self._raw.seek(start)
        self.repeats &= start + len(data) <= self.size and self._raw.read(len(data)) == data
        self._compared = start + len(data)
        return len(data)
