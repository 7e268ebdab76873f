"""Writes safetensors one tensor at a time: the library's own writer needs all of them in memory.

The format: eight bytes with the length of the header (little-endian), the header (JSON: for each tensor its number
format, shape and place), then the numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from rollforge.backbones.tensors import Tensors, numbers
from rollforge.files.number_formats import FORMATS
from rollforge.files.writing import make_folder, replacing

NAMES = {dtype: name for name, dtype in FORMATS.items()}


def write_safetensors(
    destination: Path,
    tensors: Tensors,
    metadata: dict[str, str],
    what: str,
    dtype: torch.dtype | None = None,
    written: Callable[[int], Any] = int,
) -> None:
    """Writes a whole file or none, holding one tensor at a time.

    Args:
        destination: the file.
        tensors: what to write, under the names to write it under.
        metadata: entries of the header.
        what: who is writing, for errors.
        dtype: of every tensor; its own unless given.
        written: called with the bytes of each tensor once it is written.
    """
    ordered = dict(sorted(tensors.items(), key=lambda item: -(dtype or item[1].dtype).itemsize))  # keeps all aligned
    make_folder(destination.parent)
    with replacing(destination) as partial, partial.open("wb") as file:
        _header(file, ordered, metadata, dtype)
        for stored in ordered.values():
            written(file.write(_bytes(numbers(stored, what, dtype))))


def _header(file: BinaryIO, tensors: Tensors, metadata: dict[str, str], dtype: torch.dtype | None) -> None:
    header: dict[str, Any] = {"__metadata__": metadata}
    start = 0
    for name, stored in tensors.items():
        number = dtype or stored.dtype
        end = start + stored.count * number.itemsize
        header[name] = {"dtype": NAMES[number], "shape": list(stored.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)


def _bytes(value: Tensor) -> memoryview:
    raw: Any = value.reshape(-1).view(torch.uint8).numpy()
    return memoryview(raw)
