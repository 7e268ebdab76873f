"""Untrusted files: only regular ones are opened, no more is read than is sane, and they lie where they say."""

from __future__ import annotations

import codecs
import errno
import json
import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path
from typing import Any
from unicodedata import category, normalize

from rollforge.errors import UserError

log = logging.getLogger(__name__)

SIDE = 16_384  # pixels
PIXELS = 1 << 26  # of one picture, 67 million
NARROW = 64  # the longer side over the shorter one
LETTERS = 1000  # of a prompt that may get into a name
DEPTH = 64  # objects and arrays inside each other, in JSON
CAPTION, CONFIG, MANIFEST = 1_000_000, 10_000_000, 200_000_000  # bytes
BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # names of devices, on Windows


def open_regular(file: Path | str) -> BufferedReader:
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


def check_below(folder: Path) -> None:
    """Raises ``OSError`` for a named pipe, device or socket in a folder that another library is to read."""
    for file in folder.rglob("*"):
        if file.exists() and not file.is_dir():
            check_regular(file)


def read_bytes(file: Path, most: int, what: str) -> bytes:
    """The content of a regular file of at most ``most`` bytes. Raises ``UserError`` for any other."""
    try:
        with open_regular(file) as opened:
            content = opened.read(most + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"The {what} {file} cannot be read ({reason}).") from error
    if len(content) > most:
        size = f"{most // 1_000_000} MB" if most >= 1_000_000 else f"{most:,} bytes"
        raise UserError(f"The {what} {file} is larger than {size}; give a smaller file.")
    return content


def read_text(file: Path, most: int, what: str) -> str:
    """The text of a regular file of at most ``most`` bytes: UTF-8, or UTF-16 with a byte order mark.

    Raises:
        UserError: for any other file.
    """
    content = read_bytes(file, most, what)
    encoding = next((name for mark, name in BOMS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"The {what} {file} cannot be read as UTF-8 text ({error}); save it as UTF-8.") from error


def parse_json(text: str | bytes) -> Any:
    """The content of a JSON text.

    Raises:
        ValueError: for what is none, what nests deeper than 64 levels, and an object with one name twice.
    """
    try:
        content = json.loads(text, object_pairs_hook=_distinct)
    except RecursionError as error:
        raise ValueError(f"it nests deeper than {DEPTH} levels") from error
    level = _nested([content])
    for _ in range(DEPTH):
        level = _nested(each for one in level for each in (one.values() if isinstance(one, dict) else one))
    if level:
        raise ValueError(f"it nests deeper than {DEPTH} levels")
    return content


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError(f"it holds {Counter(name for name, _ in pairs).most_common(1)[0][0]:.60} twice")
    return content


def read_json(file: Path, most: int, what: str) -> Any:
    """The content of a JSON file of at most ``most`` bytes. Raises ``UserError`` for any other."""
    text = read_text(file, most, what)
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(f"The {what} {file} is not readable JSON ({error}).") from error


def listed(folder: Path, suffixes: tuple[str, ...], what: str) -> list[Path]:
    """The regular files of a folder with one of these suffixes, in natural order. Hidden ones are left out.

    Pipes, devices, folders and broken links are named in a warning and left out too.

    Raises:
        UserError: for a link to a file outside the folder, and a folder that cannot be read.
    """
    return _chosen(folder, "*", suffixes, what)


def listed_below(folder: Path, suffixes: tuple[str, ...], what: str) -> list[Path]:
    """The same of a folder and of the folders in it, but those that are hidden."""
    return _chosen(folder, "**/*", suffixes, what)


def natural(file: Path) -> tuple[list[str | int], str]:
    """Natural sort key: ``2.mp4`` comes before ``10.mp4``, and capitals do not matter."""
    pieces = re.split(r"(\d+)", file.name.casefold())
    return [int(piece) if n % 2 else piece for n, piece in enumerate(pieces)], file.name


def hidden(file: Path) -> bool:
    """Whether a file is hidden by its name; macOS leaves such a ``._name`` next to every file on a foreign disk."""
    return file.name.startswith(".")


def caption(video: Path, folder: Path) -> str:
    """The text in the ``.txt`` file of a video's name; empty where there is none.

    Raises:
        UserError: for a link to a file outside ``folder``, and for a file that is not a text.
    """
    text = video.with_suffix(".txt")
    if not os.path.lexists(text):
        return ""
    return read_text(text, CAPTION, "caption").strip() if _usable(text, folder, "caption") else ""


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
        raise ValueError(f"{name!r:.80} is not a name of a file in this folder")
    return name


def plain_name(text: str) -> str:
    """The letters and digits of a text, of any script, as part of a file's name: at most 60, and at most 120 bytes."""
    letters = normalize("NFC", text[:LETTERS]).lower()
    words = "".join(letter if category(letter)[0] in "LMN" else " " for letter in letters).split()
    return shortened("-".join(words)[:60], 120).strip("-")


def safe_stem(name: str) -> str:
    """A name as the beginning of others: without control characters, and short enough for suffixes of 55 bytes."""
    return shortened("".join(letter if letter.isprintable() else "_" for letter in name), 200)


def shortened(name: str, most: int) -> str:
    """A name cut to so many bytes, between letters."""
    return name.encode()[:most].decode(errors="ignore")


def leads_out(file: Path, folder: Path) -> bool:
    """Whether a file is a link to somewhere outside the folder."""
    return file.is_symlink() and not _real(file).is_relative_to(_real(folder))


def check_size(path: Path | str, width: int, height: int) -> None:
    """Raises ``UserError`` for a picture whose header claims more pixels than anyone films."""
    short, long = sorted((width, height))
    if short < 1 or long > SIDE or short * long > PIXELS or long > NARROW * short:
        raise UserError(
            f"{path} says that it is {width} x {height} pixels; expected at most {SIDE} a side, {PIXELS // 1_000_000} "
            f"million in all and a side no more than {NARROW} times the other, so scale or crop it."
        )


def _chosen(folder: Path, pattern: str, suffixes: tuple[str, ...], what: str) -> list[Path]:
    def order(file: Path) -> list[Any]:
        return [natural(Path(part)) for part in file.relative_to(folder).parts]

    try:
        next(folder.iterdir(), None)  # glob passes over a folder that cannot be read
        found = [file for file in folder.glob(pattern) if file.suffix.lower() in suffixes]
        shown = [file for file in found if not any(hidden(Path(part)) for part in file.relative_to(folder).parts)]
        return [file for file in sorted(shown, key=order) if _usable(file, folder, what)]
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be read ({error.strerror}).") from error


def _usable(file: Path, folder: Path, what: str) -> bool:
    """Whether a file can be opened. Raises ``UserError`` for a link to a file outside ``folder``."""
    if leads_out(file, folder):
        raise UserError(f"The {what} {file} is a link to {_real(file)}, outside its folder; copy it there.")
    try:
        check_regular(file)
    except OSError as error:
        log.warning("The %s %s is left out (%s).", what, file, error.strerror)
        return False
    return True


def _real(path: Path) -> Path:
    """Where a path leads; unlike ``Path.resolve`` it raises for no circle of links."""
    return Path(os.path.realpath(path))


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _only_regular(status: os.stat_result, file: Path | str) -> os.stat_result:
    if stat.S_ISREG(status.st_mode):
        return status
    kind = KINDS.get(stat.S_IFMT(status.st_mode), "something else")
    raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(file))


def _nested(values: Iterable[Any]) -> list[dict[str, Any] | list[Any]]:
    return [each for each in values if isinstance(each, dict | list)]
