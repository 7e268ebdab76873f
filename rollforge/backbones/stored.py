"""Named tensors in files of weights, opened without being read: what they are, and the checks that all formats share.

Weights come from untrusted sources. Nothing is trusted to be as large as it says: a file of a kilobyte must not fill
the memory. Nothing is mapped either, so that a file may be larger than the memory: each tensor is read separately.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rollforge.errors import UserError
from rollforge.files.reading import open_regular

LONGEST = 500  # characters of a tensor's name


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its name there, its shape and dtype, and a function that reads it.

    ``read`` returns a new tensor each time, which nothing else refers to.
    """

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * self.dtype.itemsize


Tensors = dict[str, Stored]


def numbers(stored: Stored, what: str, dtype: torch.dtype | None = None) -> Tensor:
    """Reads a tensor, contiguous, in its own dtype unless another is given.

    Raises ``UserError`` for values that are not finite, or would not be in that dtype.
    """
    check_filled(stored, what)
    source = stored.read()
    value = source.to(dtype or stored.dtype).contiguous()
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


def read_region(file: Path, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Reads ``shape`` numbers of ``dtype`` that begin at byte ``start`` of a file.

    Raises ``UserError`` where the file has changed since it was opened, and ends before.
    """
    raw = torch.empty(math.prod(shape) * dtype.itemsize, dtype=torch.uint8, device="cpu")
    target: Any = memoryview(raw.numpy())  # type: ignore[arg-type]
    try:
        with open_regular(file) as opened:
            opened.seek(start)
            done = opened.readinto(target)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); check the disk.") from error
    if done < len(target):
        raise UserError(f"{file} has become shorter while it was read; fetch it again.")
    value = raw.ne(0) if dtype is torch.bool else raw.view(dtype)
    return value.reshape(shape)


def check_names(names: Iterable[str], file: Path, what: str) -> None:
    """Raises ``UserError`` for a name that would not fit into a sentence."""
    if odd := [name for name in names if not name.isprintable() or len(name) > LONGEST]:
        raise UserError(f"{what}: {file} holds a tensor called {odd[0]!r:.60}; fetch or export it again.")


def check_present(found: Tensors, file: Path, what: str) -> Tensors:
    """The same tensors. Raises ``UserError`` where there are none."""
    if not found:
        raise UserError(f"{what}: {file} holds no weights at all; fetch or export it again.")
    return found


def check_filled(stored: Stored, what: str) -> None:
    """Raises ``UserError`` for a tensor without numbers: some formats have one as a mark, but no module does."""
    if not stored.count:
        raise UserError(f"{what}: {stored.file} holds no numbers in {stored.name}; fetch or export it again.")


def odd_format(given: str, name: str, file: Path, what: str) -> UserError:
    """The error for a tensor that is not a weight."""
    return UserError(
        f"{what}: {file} holds {name} as {given}; expected floating-point weights, so take a file in bf16, fp16 or "
        "fp32."
    )


def _finite(value: Tensor) -> bool:
    """Whether every number is finite, found without a copy: a minimum or maximum passes on what is not."""
    if not value.dtype.is_floating_point:
        return True
    wide = value.float() if value.dtype.itemsize == 1 else value  # 8-bit formats cannot be compared
    return all(math.isfinite(extreme.item()) for extreme in wide.aminmax())
