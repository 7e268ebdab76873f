"""Files of ``torch.save``: opened for tensors only, so that no code in them runs, and read tensor by tensor."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from rollforge.backbones.stored import Stored, Tensors, check_names, check_present, odd_format, read_region
from rollforge.errors import UserError
from rollforge.files.number_formats import FORMATS
from rollforge.files.reading import open_regular

TORCH = (".pt", ".pth", ".ckpt", ".bin")
HEADER = struct.Struct("<26xHH")  # of a record: the lengths of its name and of what pads it
DESCRIPTOR = 24  # bytes at most between a record and the next header
SHARED = 4  # names that one tensor of a language model goes by: embeddings of encoder and decoder, input and output


def open_torch(file: Path, what: str) -> dict[str, Any]:
    """What ``torch.save`` has put into a file: tensors and plain data only, the tensors without their numbers."""
    if not file.is_file():
        raise UserError(f"{what}: there is no weights file {file}; expected a {', '.join(TORCH[:-1])} or .bin file.")
    if not file.stat().st_size:
        raise UserError(f"{what}: {file} is empty; expected a file of weights, so fetch it again.")
    if not _is_archive(file):
        raise UserError(
            f"{what}: {file} is truncated, or was not written by torch.save of torch 1.6 or later; fetch or export it "
            "again."
        )
    _check_archive(file, what)
    try:
        with FakeTensorMode():  # leaves the numbers where they are and notes the place of each storage
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file: what comes up depends on where it is damaged
        raise _unreadable(file, what, error) from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{what}: {file} holds no named tensors but a {type(content).__name__}; take another file.")
    check_names(content, file, what)
    return content


def tensors_of(content: dict[str, Any], file: Path, what: str) -> Tensors:
    """The tensors in (a part of) what ``open_torch`` returned, all of which must be tensors that are really there."""
    found = {name: _stored(name, value, file, what) for name, value in content.items()}
    if sum(stored.size for stored in found.values()) > SHARED * file.stat().st_size:
        raise _overdrawn(file, what)
    return check_present(found, file, what)


def _stored(name: str, value: Any, file: Path, what: str) -> Stored:
    there = isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu"
    if not there:
        kind = "a tensor without numbers" if isinstance(value, Tensor) else f"a value of type {type(value).__name__}"
        raise UserError(f"{what}: {file} holds {kind} under {name}; expected a tensor, so take another file.")
    if value.dtype not in FORMATS.values():
        raise odd_format(str(value.dtype).removeprefix("torch."), name, file, what)
    storage, shape, stride, width = value.untyped_storage(), tuple(value.shape), value.stride(), value.dtype.itemsize
    start = getattr(storage, "_checkpoint_offset", file.stat().st_size)  # where torch found it
    begin = value.storage_offset() * width
    extent = 1 + sum((edge - 1) * step for edge, step in zip(shape, stride, strict=True)) if value.numel() else 0
    inside = begin + extent * width <= storage.nbytes() <= file.stat().st_size - start
    if not inside or value.nbytes > storage.nbytes():
        raise _overdrawn(file, what)
    return Stored(
        name, file, shape, value.dtype, partial(_read, file, start + begin, extent, shape, stride, value.dtype)
    )


def _read(
    file: Path, start: int, extent: int, shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    return read_region(file, start, (extent,), dtype).as_strided(shape, stride).contiguous()


def _overdrawn(file: Path, what: str) -> UserError:
    return UserError(f"{what}: {file} claims more numbers than it holds; fetch or export it again.")


def _is_archive(file: Path) -> bool:
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:  # "zipfiles that span multiple disks", from Python 3.11
        return False


def _check_archive(file: Path, what: str) -> None:
    """Raises ``UserError`` for a file that would unpack to more than it is; torch.save never compresses."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            whole = _in_a_row(file, entries, archive.start_dir)
            swapped = any(e.filename.endswith("/byteorder") and archive.read(e) == b"big" for e in entries)
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise _unreadable(file, what, error) from error
    if sum(entry.file_size for entry in entries) > file.stat().st_size:
        raise _overdrawn(file, what)
    if not whole:
        raise UserError(f"{what}: {file} is damaged (its records overlap or leave gaps); fetch or export it again.")
    if swapped:
        raise UserError(f"{what}: {file} was written on a big-endian machine; export it again as safetensors.")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(f"{what}: {file} is compressed, which torch.save never does; fetch or export it again.")


def _in_a_row(file: Path, entries: Sequence[zipfile.ZipInfo], end: int) -> bool:
    """Whether each record ends where the next begins, by the headers that say where its bytes are.

    torch takes the place of a storage from the header in front of it, so a damaged one would give other numbers.
    """
    ordered = sorted(entries, key=lambda entry: entry.header_offset)
    with open_regular(file) as archive:
        for entry, after in zip(ordered, [*(each.header_offset for each in ordered[1:]), end], strict=True):
            archive.seek(entry.header_offset)
            header = archive.read(HEADER.size)
            if len(header) < HEADER.size:
                return False
            begin = entry.header_offset + HEADER.size + sum(HEADER.unpack(header))
            if not 0 <= after - (begin + entry.file_size) <= DESCRIPTOR:
                return False
    return True


def _unreadable(file: Path, what: str, error: Exception) -> UserError:
    """The error for a file that cannot be opened. torch's own advice, to open it all the same, is left out."""
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return UserError(
            f"{what}: {file} holds more than tensors ({found[1]}), which could run code and is not opened; take a file "
            "of tensors only, or export one from it where you trust it."
        )
    reason = str(error).partition("WeightsUnpickler error:")[2] or str(error)
    first = (reason.strip() or type(error).__name__).splitlines()[0].rstrip(". ")
    return UserError(f"{what}: {file} is damaged ({first}); fetch or export it again.")
