"""Files of named tensors, opened without being read: safetensors, in one file or in shards, and torch's ``.pt``.

Weights come from strangers. A ``.pt`` is opened for tensors only, so that no code in it runs, and nothing is trusted
to be as large as it says: a file of a kilobyte must not fill the memory.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rollforge.errors import UserError
from rollforge.safe_files import read_text

HEADER = 1 << 25  # bytes of names and shapes, in a safetensors file or an index; the largest models need a thousandth
LONGEST = 500  # characters of a tensor's name
INDEX = ".safetensors.index.json"
TORCH = (".pt", ".pth")
FORMATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "BOOL": torch.bool,
}
"""Number formats that weights and counters come in, by their names in safetensors."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its name there, what the file says of it, and how to read it."""

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


Tensors = dict[str, Stored]


def numbers(stored: Stored, what: str, dtype: torch.dtype | None = None) -> Tensor:
    """A copy of a tensor that keeps nothing of its file alive, in its own dtype unless another is given.

    Raises ``UserError`` for numbers that are not finite, or would not be in that dtype.
    """
    source = stored.read().detach()
    value = source.to(dtype or stored.dtype, copy=True, memory_format=torch.contiguous_format)
    if _finite(value):
        return value
    if _finite(source):
        raise UserError(
            f"{what}: {stored.file} holds numbers in {stored.name} that are too large for "
            f"{str(value.dtype).removeprefix('torch.')}; choose bf16 or fp32."
        )
    raise UserError(
        f"{what}: {stored.file} holds numbers that are not finite in {stored.name}; fetch or export it again."
    )


def open_safetensors(file: Path, what: str) -> Tensors:
    """The tensors of one safetensors file."""
    if not file.is_file():
        raise UserError(f"{what}: there is no weights file {file}; expected a .safetensors file.")
    _check_header(file, what)
    try:
        opened = safe_open(file, framework="pt")
        twice = _repeated(file)
        entries = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118, it is no mapping
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error)[:300].split())  # which quotes the file
        raise UserError(
            f"{what}: {file} is not a readable safetensors file ({reason}); fetch or export it again."
        ) from error
    _check_names(entries, file, what)
    if twice:
        raise UserError(f"{what}: {file} holds {twice[0]} twice; fetch or export it again.")
    found = {
        name: Stored(
            name, file, tuple(entry.get_shape()), _format(entry.get_dtype(), name, file, what),
            partial(opened.get_tensor, name),
        )
        for name, entry in entries.items()
    }  # fmt: skip
    return _holding_numbers(found, file, what)


def open_sharded(index: Path, what: str) -> Tensors:
    """The tensors of several safetensors files, which the index beside them names."""
    try:
        listed: dict[str, str] = json.loads(read_text(index, HEADER, "index"))["weight_map"]
        files = sorted(set(listed.values()))
        outside = [file for file in files if Path(file).name != file]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{what}: {index} is no index of safetensors files ({reason:.300}); fetch it again.") from error
    _check_names([*listed, *files], index, what)
    if outside:
        raise UserError(f"{what}: {index} names {outside[0]}, which is no file beside it; fetch it again.")
    if absent := [file for file in files if not (index.parent / file).is_file()]:
        raise UserError(
            f"{what}: {index} names {', '.join(absent[:3])}, and {len(absent)} of its {len(files)} files are not "
            "there; download them beside it."
        )
    shards = {file: open_safetensors(index.parent / file, what) for file in files}
    if lost := [name for name, file in listed.items() if name not in shards[file]]:
        raise UserError(
            f"{what}: {index} says that {listed[lost[0]]} holds {lost[0]}, and it does not; fetch it again."
        )
    return _holding_numbers({name: shards[file][name] for name, file in listed.items()}, index, what)


def open_file(file: Path, what: str) -> Tensors:
    """The tensors of a safetensors file, or of a ``.pt`` or ``.pth`` file that holds nothing else."""
    if file.suffix == ".safetensors":
        return open_safetensors(file, what)
    return tensors_of(open_torch(file, what), file, what)


def open_torch(file: Path, what: str) -> dict[str, Any]:
    """What ``torch.save`` has put into a file, tensors and plain data only, mapped and not read."""
    if not file.is_file():
        raise UserError(f"{what}: there is no weights file {file}; expected a .pt or .pth file.")
    if not file.stat().st_size:
        raise UserError(f"{what}: {file} is empty; expected a file of weights, so fetch it again.")
    if not _is_archive(file):
        raise UserError(
            f"{what}: {file} is cut off, or was not written by torch.save of torch 1.6 or later; fetch or export it "
            "again."
        )
    _check_archive(file, what)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged or hostile file: what comes up depends on where it is damaged
        raise _unreadable(file, what, error) from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{what}: {file} holds no named tensors but a {type(content).__name__}; take another file.")
    _check_names(content, file, what)
    return content


def tensors_of(content: dict[str, Any], file: Path, what: str) -> Tensors:
    """The tensors in (a part of) what a ``.pt`` holds, all of which must be tensors that are really there."""
    for name, value in content.items():
        if not isinstance(value, Tensor) or value.layout is not torch.strided or value.device.type != "cpu":
            kind = (
                "a tensor without numbers" if isinstance(value, Tensor) else f"a value of type {type(value).__name__}"
            )
            raise UserError(f"{what}: {file} holds {kind} under {name}; expected a tensor, so take another file.")
        if value.dtype not in FORMATS.values():
            raise odd_format(str(value.dtype).removeprefix("torch."), name, file, what)
    found = {
        name: Stored(name, file, tuple(value.shape), value.dtype, partial(_itself, value))
        for name, value in content.items()
    }
    if sum(stored.size for stored in found.values()) > file.stat().st_size:
        raise UserError(f"{what}: {file} claims more numbers than it holds; fetch or export it again.")
    return _holding_numbers(found, file, what)


def odd_format(given: str, name: str, file: Path, what: str) -> UserError:
    """The error for a tensor that is no weight."""
    return UserError(
        f"{what}: {file} holds {name} as {given}; expected floating-point weights, so take a file in bf16, fp16 or "
        "fp32."
    )


def _itself(value: Tensor) -> Tensor:
    return value


def _finite(value: Tensor) -> bool:
    """Whether every number is finite, found without a copy: a minimum or maximum passes on what is not."""
    if not value.dtype.is_floating_point:
        return True
    wide = value.float() if value.dtype.itemsize == 1 else value  # 8-bit formats cannot be compared
    return all(math.isfinite(extreme.item()) for extreme in wide.aminmax())


def _check_header(file: Path, what: str) -> None:
    """Raises ``UserError`` for a header that is larger than is sane, or than the file."""
    with file.open("rb") as opened:
        length, size = int.from_bytes(opened.read(8), "little"), file.stat().st_size
    if length > min(HEADER, size - 8):
        raise UserError(
            f"{what}: {file} is not a readable safetensors file (header too large: {length:,} bytes in a file of "
            f"{size:,}); fetch or export it again."
        )


def _check_names(names: Iterable[str], file: Path, what: str) -> None:
    """Raises ``UserError`` for a name that would not fit into a sentence."""
    if odd := [name for name in names if not name.isprintable() or len(name) > LONGEST]:
        raise UserError(f"{what}: {file} holds a tensor called {odd[0]!r:.60}; fetch or export it again.")


def _is_archive(file: Path) -> bool:
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:  # "zipfiles that span multiple disks", from Python 3.11
        return False


def _check_archive(file: Path, what: str) -> None:
    """Raises ``UserError`` for a ``.pt`` that would unpack to more than it is; torch.save never compresses."""
    try:
        with zipfile.ZipFile(file) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise _unreadable(file, what, error) from error
    if claimed > file.stat().st_size:
        raise UserError(f"{what}: {file} claims more numbers than it holds; fetch or export it again.")


def _repeated(file: Path) -> list[str]:
    """Names that stand twice in the header: the library would quietly take the last."""
    twice: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(items)
        if len(seen) < len(items):
            names = [name for name, _ in items]
            twice.extend(sorted({name for name in names if names.count(name) > 1}))
        return seen

    with file.open("rb") as opened:  # the library has found the length sane
        json.loads(opened.read(int.from_bytes(opened.read(8), "little")), object_pairs_hook=pairs)
    return twice


def _holding_numbers(found: Tensors, file: Path, what: str) -> Tensors:
    if not found:
        raise UserError(f"{what}: {file} holds no weights at all; fetch or export it again.")
    if empty := [name for name, stored in found.items() if not stored.size]:
        raise UserError(f"{what}: {file} holds no numbers in {empty[0]}; fetch or export it again.")
    return found


def _format(given: str, name: str, file: Path, what: str) -> torch.dtype:
    if given not in FORMATS:
        raise odd_format(given, name, file, what)
    return FORMATS[given]


def _unreadable(file: Path, what: str, error: Exception) -> UserError:
    """The error for a ``.pt`` that cannot be opened. torch's own advice, to open it all the same, is left out."""
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return UserError(
            f"{what}: {file} holds more than tensors ({found[1]}), which could run code and is not opened; take a file "
            "of tensors only, or export one from it where you trust it."
        )
    told = str(error).partition("WeightsUnpickler error:")[2] or str(error)
    first = (told.strip() or type(error).__name__).splitlines()[0].rstrip(". ")
    return UserError(f"{what}: {file} is damaged ({first}); fetch or export it again.")
