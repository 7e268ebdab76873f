"""A folder of numbered files, which a process may be killed while writing or removing."""

from __future__ import annotations

import os
import re
from pathlib import Path

from rollforge.errors import UserError
from rollforge.files.writing import PARTIAL


def numbered(folder: Path, stem: str) -> list[tuple[int, Path]]:
    """The files ``<stem>-000040.safetensors`` of a folder with their numbers, the lowest first."""
    return sorted(
        (int(found[1]), folder / name)
        for name in _names(folder)
        if (found := re.fullmatch(rf"{stem}-([0-9]{{6,18}})\.safetensors", name)) and (folder / name).is_file()
    )


def file_name(stem: str, number: int) -> str:
    """The name that ``numbered`` finds."""
    return f"{stem}-{number:06d}.safetensors"


def sweep(folder: Path, stem: str) -> None:
    """Removes files that interrupted writes have left."""
    for name in _names(folder):
        if name.startswith(f"{stem}-") and name.endswith(PARTIAL):
            remove(folder / name)


def remove(path: Path) -> None:
    """Removes a file that may be gone. Raises ``UserError`` where that is not allowed."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be removed ({error.strerror}); remove it by hand.") from error


def clear(folder: Path, stem: str) -> None:
    """Removes a folder's numbered files and what killed writes left, and the folder when nothing else is in it."""
    sweep(folder, stem)
    for _, path in reversed(numbered(folder, stem)):  # what is left by a kill is still in order
        remove(path)
    if folder.is_dir() and not _names(folder):
        folder.rmdir()


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); choose another --output_dir.") from error
