"""Files that are whole or absent: nothing has its final name before all of it is on the disk."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from rollforge.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

PARTIAL = ".partial"
"""How the name of an unfinished file ends."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives the name of a temporary file to write, which becomes ``path`` when the block ends well.

    If anything fails, the temporary is removed, and what had the name before
    stays as it was.

    Raises:
        UserError: where the disk does not take it. Any ``OSError`` in the block is held for that.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        partial.unlink(missing_ok=True)  # a link that someone else left there must not be followed
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} cannot be written ({_reason(error)}); make room there, or choose another --output_dir."
        ) from error
    finally:
        with suppress(OSError):  # the first error is the one to tell
            partial.unlink()
    _sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it. Raises ``UserError`` where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be made ({error.strerror}); choose another --output_dir."
        ) from error


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


def _sync_folder(folder: Path) -> None:
    """Puts the new name on the disk. Some file systems cannot; the file is whole there all the same."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
