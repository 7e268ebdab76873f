"""Safetensors, read without mapping the file: its header, and each tensor by itself.

The format: eight bytes with the length of the header (little-endian), the header (JSON: for each tensor its number
format, shape and place), then the numbers, without gaps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rollforge.backbones.stored import Stored, Tensors, check_names, check_present, odd_format, read_region
from rollforge.errors import UserError
from rollforge.files.number_formats import FORMATS
from rollforge.files.reading import open_regular, parse_json

HEADER = 1 << 25  # bytes of names and shapes, in a safetensors file or an index; the largest models need a thousandth
METADATA = "__metadata__"


@dataclass(frozen=True)
class Entry:
    """What the header says of one tensor; ``start`` and ``end`` are bytes in the part with the numbers."""

    format: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """The header of a file; ``data`` is the byte at which the numbers begin."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    data: int


def open_safetensors(file: Path, what: str) -> Tensors:
    """The tensors of one safetensors file."""
    header = read_header(file, what)
    check_names(header.entries, file, what)
    found = {}
    for name, entry in header.entries.items():
        if entry.format not in FORMATS:
            raise odd_format(entry.format, name, file, what)
        dtype = FORMATS[entry.format]
        read = partial(read_region, file, header.data + entry.start, entry.shape, dtype)
        found[name] = Stored(name, file, entry.shape, dtype, read)
    return check_present(found, file, what)


def read_header(file: Path, what: str) -> Header:
    """Reads the header and holds it against the size of the file. Raises ``UserError`` for one that does not fit."""
    if not file.is_file():
        raise UserError(f"{what}: there is no weights file {file}; expected a .safetensors file.")
    try:
        return _header(file)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error)[:300].split())
        raise UserError(
            f"{what}: {file} is not a readable safetensors file ({reason}); fetch or export it again."
        ) from error


def _header(file: Path) -> Header:
    size = file.stat().st_size
    with open_regular(file) as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > min(HEADER, size - 8):
            raise ValueError(f"header too large: {length:,} bytes in a file of {size:,}")
        content = parse_json(opened.read(length))
    if not isinstance(content, dict):
        raise ValueError("its header is not a mapping")
    metadata = content.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata is not text")
    entries = {name: _entry(name, fields) for name, fields in content.items()}
    _check_places(entries, size - 8 - length)
    return Header(entries, metadata, 8 + length)


def _entry(name: str, fields: Any) -> Entry:
    try:
        format, shape, (start, end) = fields["dtype"], tuple(fields["shape"]), fields["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name:.60} has no dtype, shape and data_offsets") from error
    if not isinstance(format, str) or any(type(each) is not int or each < 0 for each in (*shape, start, end)):
        raise ValueError(f"{name:.60} has an impossible dtype, shape or place")
    return Entry(format[:20], shape, start, end)


def _check_places(entries: dict[str, Entry], size: int) -> None:
    """Raises ``ValueError`` unless the tensors fill the ``size`` bytes after the header, each with its own numbers."""
    at = 0
    for name, entry in sorted(entries.items(), key=lambda each: (each[1].start, each[1].end)):
        if entry.start != at or entry.end < at:
            raise ValueError(f"{name:.60} does not begin where the tensor before it ends")
        at = entry.end
        if (dtype := FORMATS.get(entry.format)) and math.prod(entry.shape) * dtype.itemsize != entry.end - entry.start:
            raise ValueError(f"{name:.60} has not as many numbers as its shape says")
    if at != size:
        raise ValueError(f"its tensors take {at:,} bytes, and {size:,} are there")
