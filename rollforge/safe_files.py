"""Files of strangers: how large they may be, and that they lie where they say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from rollforge.errors import UserError

SIDE = 16_384  # pixels
PIXELS = 1 << 26  # of one picture, 67 million
NARROW = 64  # the longer side over the shorter one
RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # names of devices, on Windows


def read_text(file: Path, most: int, what: str) -> str:
    """The UTF-8 text of a file of at most ``most`` bytes. Raises ``UserError`` for any other."""
    try:
        with file.open("rb") as opened:
            content = opened.read(most + 1)
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The {what} {file} cannot be read as UTF-8 text ({error}).") from error
    if len(content) > most:
        raise UserError(f"The {what} {file} is larger than {most // 1_000_000} MB; give a smaller file.")
    return text


def listed(folder: Path, suffixes: tuple[str, ...], what: str) -> list[Path]:
    """The files of a folder with one of these suffixes, in order. Raises ``UserError`` for one that lies elsewhere."""
    return list(_inside(folder, suffixes, what))


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
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in suffixes:
            continue
        if leads_out(file, folder):
            raise UserError(f"The {what} {file} is a link to {file.resolve()}, outside its folder; copy it there.")
        yield file
