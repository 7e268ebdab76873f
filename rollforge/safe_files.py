"""Files of strangers: how large they may be, and that they lie where they say."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rollforge.errors import UserError

SIDE = 16_384  # pixels
PIXELS = 1 << 26  # of one picture, 67 million
NARROW = 64  # the longer side over the shorter one
RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # names of devices, on Windows


def open_regular(file: Path | str) -> BinaryIO:
    """Opens a regular file to read its bytes.

    Raises:
        OSError: for what cannot be read, and for a named pipe, device, socket or folder. Reading those may never end.
    """
    check_regular(file)
    opened = open(file, "rb", opener=_without_waiting)  # noqa: SIM115 - the caller closes it
    try:
        _only_regular(os.fstat(opened.fileno()), file)
    except OSError:
        opened.close()
        raise
    return opened


def check_regular(file: Path | str) -> os.stat_result:
    """The status of a regular file, links followed. Raises ``OSError`` for anything else."""
    return _only_regular(os.stat(file), file)


def read_text(file: Path, most: int, what: str) -> str:
    """The UTF-8 text of a file of at most ``most`` bytes. Raises ``UserError`` for any other."""
    try:
        with open_regular(file) as opened:
            content = opened.read(most + 1)
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The {what} {file} cannot be read as UTF-8 text ({error}).") from error
    if len(content) > most:
        raise UserError(f"The {what} {file} is larger than {most // 1_000_000} MB; give a smaller file.")
    return text


def listed(folder: Path, suffixes: tuple[str, ...], what: str) -> list[Path]:
    """The files of a folder with one of these suffixes, in natural order. Hidden files are passed over.

    Raises:
        UserError: for a file that lies elsewhere, and a folder that cannot be read.
    """
    try:
        return list(_inside(folder, suffixes, what))
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be read ({error.strerror}).") from error


def natural(file: Path) -> tuple[list[str | int], str]:
    """Sorts by name as people do: ``2.mp4`` comes before ``10.mp4``, and capitals do not matter."""
    pieces = re.split(r"(\d+)", file.name.casefold())
    return [int(piece) if n % 2 else piece for n, piece in enumerate(pieces)], file.name


def hidden(file: Path) -> bool:
    """Whether a file is hidden by its name; macOS leaves such a ``._name`` next to every file on a foreign disk."""
    return file.name.startswith(".")


def bare_name(name: object, folder: Path) -> str:
    """A name of a file in ``folder``. Raises ``ValueError`` for anything that is, or leads, elsewhere."""
    if (
        not isinstance(name, str)
        or not name.isprintable()
        or not 0 < len(name.encode()) <= 255
        or re.search(r'[/\\:*?"<>|]', name)
        or name.startswith(".")
        or name.endswith((".", " "))
        or RESERVED.fullmatch(name)
        or leads_out(folder / name, folder)
    ):
        raise ValueError(f"{name!r:.80} is no name of a file in this folder")
    return name


def leads_out(file: Path, folder: Path) -> bool:
    """Whether a file is a link to somewhere outside the folder."""
    return file.is_symlink() and not file.resolve().is_relative_to(folder.resolve())


def check_size(path: Path | str, width: int, height: int) -> None:
    """Raises ``UserError`` for a picture whose header claims more pixels than anyone films."""
    short, long = sorted((width, height))
    if short < 1 or long > SIDE or short * long > PIXELS or long > NARROW * short:
        raise UserError(
            f"{path} says that it is {width} x {height} pixels; expected at most {SIDE} a side, {PIXELS // 1_000_000} "
            f"million in all and a side no more than {NARROW} times the other, so scale or crop it."
        )


def _inside(folder: Path, suffixes: tuple[str, ...], what: str) -> Iterator[Path]:
    for file in sorted(folder.iterdir(), key=natural):
        if file.suffix.lower() not in suffixes or hidden(file):
            continue
        if leads_out(file, folder):
            raise UserError(f"The {what} {file} is a link to {file.resolve()}, outside its folder; copy it there.")
        yield file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _only_regular(status: os.stat_result, file: Path | str) -> os.stat_result:
    if stat.S_ISREG(status.st_mode):
        return status
    kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a named pipe, device or socket"
    raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(file))
