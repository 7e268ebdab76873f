"""Keeps other processes out of a folder."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

from rollforge.errors import UserError
from rollforge.files.writing import check_own


def locked(folder: Path) -> FileLock:
    """Locks a folder, which is there, as long as this process lives and holds what is returned.

    Raises:
        UserError: where another process holds it, or the lock cannot be written.
    """
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        if os.path.lexists(lock.lock_file):
            check_own(Path(lock.lock_file))  # the lock empties the file
        lock.acquire()
    except Timeout as error:
        raise UserError(f"Another run is using {folder}; wait for it, or choose another --output_dir.") from error
    except OSError as error:
        raise UserError(f"{folder} cannot be locked ({error.strerror}); choose another --output_dir.") from error
    return lock
