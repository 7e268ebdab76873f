"""Files that are whole or absent: nothing has its final name before all of it is on the disk.

A run folder may be untrusted: nothing is written through a link that lies in it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from safetensors import SafetensorError

from rollforge.errors import UserError
from rollforge.files.reading import open_regular

if TYPE_CHECKING:
    from torch import Tensor

PARTIAL = ".partial"
"""How the name of an unfinished file ends."""
READ_WHOLE = 64_000_000  # bytes; of larger files size and date stand for the content


class NotWritten(UserError):
    """A file cannot be written."""


def content_id(path: Path) -> str:
    """An identifier of a file's content: its hash, or size and date if it is large.

    Raises:
        UserError: for a file that cannot be read.
    """
    try:
        stat = path.stat()
        if stat.st_size > READ_WHOLE:
            return f"{stat.st_size} bytes of {stat.st_mtime_ns}"
        with open_regular(path) as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives the name of a temporary file to write, which becomes ``path`` when the block ends well.

    If anything fails, the temporary is removed, and what had the name before
    stays as it was.

    Raises:
        NotWritten: where the disk does not take it. Any ``OSError`` in the block counts as that.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        open_new(partial).close()
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise NotWritten(
            f"{path} cannot be written ({_reason(error)}); make room there, or choose another folder."
        ) from error
    finally:
        with suppress(OSError):  # the first error is the one to tell
            partial.unlink()
    sync(path.parent)


def open_new(path: Path, buffering: int = -1) -> BinaryIO:
    """Opens an empty file to write, in place of what has the name: a link is removed, and what it leads to stays.

    Raises ``OSError`` where that cannot be.
    """
    path.unlink(missing_ok=True)
    return open(path, "xb", buffering)


def open_own(path: Path, append: bool = False, buffering: int = -1) -> BinaryIO:
    """Opens a file of an earlier run to read and write on, or only to append to.

    Raises ``OSError`` where there is none, and for a link: what is written must not end up in another file.
    """
    check_own(path)
    flags = os.O_RDWR | (os.O_APPEND if append else 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags), "ab" if append else "r+b", buffering)


def check_own(path: Path) -> None:
    """Raises ``OSError`` for anything but a regular file of one name: for links of both kinds, pipes and devices."""
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        kind = "a link" if stat.S_ISLNK(found.st_mode) else "not a file"
        raise OSError(errno.EINVAL, f"it is {kind}; remove it", str(path))
    if found.st_nlink > 1:
        raise OSError(errno.EINVAL, "it has a second name elsewhere (a hard link); copy it", str(path))


def subfolder(root: Path, *names: str) -> Path:
    """The folder ``root/name/...``, be it there or not. Raises ``UserError`` where a step below ``root`` is a link."""
    folder = root
    for name in names:
        folder /= name
        if folder.is_symlink():
            raise UserError(f"{folder} is a link to {folder.resolve()}; remove it, or choose another folder.")
    return folder


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it. Raises ``UserError`` where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be made ({error.strerror}); choose another folder.") from error


def write(path: Path, content: str | bytes) -> None:
    """Writes a whole file or none, text as UTF-8. Raises ``UserError`` where the disk does not take it."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: Any) -> None:
    """Writes plain data as indented JSON, a whole file or none."""
    write(path, json.dumps(content, indent=2) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes contiguous tensors as safetensors, a whole file or none."""
    from safetensors.torch import save_file  # brings torch

    with replacing(path) as partial:
        save_file(dict(tensors), partial, dict(metadata or {}))


def _reason(error: Exception) -> str:
    """What the system says; the safetensors library has its number in a longer text."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    found = re.search(r"\(os error (\d+)\)", str(error))
    return os.strerror(int(found[1])) if found else str(error)


def sync(path: Path) -> None:
    """Puts a file, or the names in a folder, on the disk. Some file systems cannot do it for a folder."""
    with suppress(OSError):
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
