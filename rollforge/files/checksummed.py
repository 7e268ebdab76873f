"""Safetensors files under a checksum that covers every byte of them.

They are written one tensor at a time, which the library's own writer cannot do, and that of converted weights not with
tensors of every kind. The checksum stands first in the header, at a fixed place: while a file is written there are
zeros, and the place is filled in at the end, before the file gets its name. Sizes in the header are checked against the
size of the file before anything is read into memory, and no tensor is returned before the checksum matches.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rollforge.errors import UserError
from rollforge.files.number_formats import FORMATS as WEIGHTS
from rollforge.files.reading import open_regular
from rollforge.files.writing import make_folder, replacing

VERSION = "1"
LIMIT = 100_000_000
"""Bytes that a header may have, as in the safetensors library."""

FORMATS = WEIGHTS | {
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "C64": torch.complex64,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
}
NAMES = {dtype: name for name, dtype in FORMATS.items()}
"""Every number format that can be kept."""

OPENING = b'{"__metadata__": {"checksum": "'
ZEROS = b"0" * 64


class Damaged(Exception):
    """Why a file cannot be used; the caller adds its name."""


@dataclass(frozen=True)
class Entry:
    """The entry of one tensor in a header."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Header:
    """The header of a file: its metadata, and its tensors in the order in which they are stored."""

    words: dict[str, str]
    entries: list[Entry]
    raw: bytes


def write_sealed(path: Path, kind: str, words: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Writes a whole file or none. Beyond the given tensors it holds a copy of one at a time, on the CPU.

    Args:
        path: the file.
        kind: what it is, which its reader checks: another kind is not taken.
        words: metadata, as strings.
        tensors: strided ones on any device, in the formats of ``NAMES``.
    """
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize))  # keeps all aligned
    header = _header({"kind": kind, "version": VERSION, **words}, ordered)
    if len(header) > LIMIT:
        raise UserError(
            f"{path} cannot be written: it has {len(header)} bytes of plain data and at most {LIMIT} are read again; "
            "store large data of a component as tensors."
        )
    make_folder(path.parent)
    with replacing(path) as partial, partial.open("wb") as file:
        checksum = sha256(header)
        file.write(header)
        for value in ordered.values():
            raw = numbers_of(value)
            checksum.update(raw)
            file.write(raw)
        file.seek(8 + len(OPENING))
        file.write(checksum.hexdigest().encode())


def read_header(path: Path, kind: str) -> Header:
    """The header of a file, checked against its size but not against its checksum. Raises ``Damaged``."""
    try:
        with open_regular(path) as file:
            return _read_header(file, kind)
    except OSError as error:
        raise Damaged(f"cannot be read: {error.strerror}") from error


def read_sealed(path: Path, kind: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a file whose checksum matches. Raises ``Damaged`` for any other."""
    try:
        with open_regular(path) as file:
            header = _read_header(file, kind)
            place = slice(8 + len(OPENING), 8 + len(OPENING) + len(ZEROS))
            checksum = sha256(header.raw[: place.start] + ZEROS + header.raw[place.stop :])
            tensors = {entry.name: _read_tensor(file, entry, checksum.update) for entry in header.entries}
    except OSError as error:
        raise Damaged(f"cannot be read: {error.strerror}") from error
    if checksum.hexdigest().encode() != header.raw[place]:
        raise Damaged("its checksum differs")
    return header.words, tensors


def numbers_of(value: Tensor) -> memoryview:
    """The bytes of a strided tensor in the order of its axes; a copy where it is elsewhere or lies in another order."""
    plain = value.detach().resolve_conj().resolve_neg().cpu().contiguous()
    flat = plain.as_strided((plain.numel(),), (1,))  # which one number alone, or none, need not be
    raw: Any = flat.view(torch.uint8).numpy()
    return memoryview(raw)


def _header(words: Mapping[str, str], tensors: Mapping[str, Tensor]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"checksum": ZEROS.decode(), **words}}
    start = 0
    for name, value in tensors.items():
        end = start + value.numel() * value.dtype.itemsize
        header[name] = {"dtype": NAMES[value.dtype], "shape": list(value.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _read_tensor(file: BufferedReader, entry: Entry, on_bytes: Callable[[memoryview], None]) -> Tensor:
    buffer = torch.empty(entry.size, dtype=torch.uint8)  # no larger than the file, which is known by now
    raw = memoryview(buffer.numpy())  # type: ignore[arg-type]
    if file.readinto(raw) < entry.size:
        raise Damaged("truncated while it was read")
    on_bytes(raw)
    try:
        return buffer.view(entry.dtype).reshape(entry.shape)
    except RuntimeError as error:  # no numbers, but more than torch can count along the other axes
        raise Damaged("its header is garbled") from error


def _read_header(file: BufferedReader, kind: str) -> Header:
    size = os.fstat(file.fileno()).st_size
    raw = file.read(8 + len(OPENING))
    length = int.from_bytes(raw[:8], "little")
    if raw[8:] != OPENING[: max(0, len(raw) - 8)] or not len(OPENING) <= length <= LIMIT:
        raise Damaged(f"it is not of kind {kind}" if size else "truncated: it is empty")
    if 8 + length > size:
        raise Damaged(f"truncated: it has {size} bytes and its header alone {length}")
    raw += file.read(length - len(OPENING))
    try:
        header = json.loads(raw[8:])
        words = header.pop("__metadata__")
        _check(words, kind)
        entries = _entries(header)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged("its header is garbled") from error
    expected = 8 + length + sum(entry.size for entry in entries)
    if size != expected:
        raise Damaged(f"{'truncated' if size < expected else 'too long'}: it has {size} of {expected} bytes")
    return Header(words, entries, raw)


def _check(words: dict[str, Any], kind: str) -> None:
    if not all(isinstance(word, str) for word in words.values()):
        raise TypeError("words")
    if words["kind"] != kind:
        raise Damaged(f"it is not of kind {kind}")
    if words["version"] != VERSION:
        raise Damaged(f"unknown format version {words['version'][:20]}, expected {VERSION}")


def _entries(header: dict[str, Any]) -> list[Entry]:
    """The tensors of a header, which must lie one behind the other. Raises ``ValueError`` and the like."""
    entries, start = [], 0
    for name, fields in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        entry = Entry(name, FORMATS[fields["dtype"]], tuple(fields["shape"]))
        if not all(type(extent) is int and 0 <= extent < 2**62 for extent in entry.shape) or len(entry.shape) > 64:
            raise ValueError(name)
        if fields["data_offsets"] != [start, start + entry.size]:
            raise ValueError(name)
        entries.append(entry)
        start += entry.size
    return entries
