"""Sharded checkpoints are read as data.

torch and Lightning read the metadata of a sharded checkpoint, its values that are not tensors, and the checkpoint files
of ``FSDPStrategy`` as plain pickles, which run code. In ``restricted`` they know the classes of a checkpoint and no
others.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from lightning.fabric.utilities import load as lightning_load
from torch import _weights_only_unpickler
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.planner import ReadItem

from rollforge.errors import UserError
from rollforge.files.reading import check_below, open_regular

FILE = ".metadata"
"""What makes a folder a sharded checkpoint."""
KNOWN = frozenset(
    {
        *((metadata.__name__, name) for name in ("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties")),
        *((metadata.__name__, f"{kind}StorageMetadata") for kind in ("Bytes", "Chunk", "Tensor")),
        *((metadata.__name__, "_MEM_FORMAT_ENCODING"), (filesystem.__name__, "_StorageInfo")),
        *(("torch", "Size"), ("torch.serialization", "_get_layout"), ("collections", "OrderedDict")),
        *((module, name) for module in ("pathlib", "pathlib._local") for name in ("Path", "PosixPath", "WindowsPath")),
    }
)
REBUILT = (
    ("torch._utils", "_rebuild_tensor_v2"), ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch._utils", "_rebuild_parameter"),
)  # fmt: skip
"""What Lightning replaces while it reads a file, by functions of its own."""


class MetadataUnpickler(pickle.Unpickler):
    """Reads the metadata of a sharded checkpoint. Raises ``pickle.UnpicklingError`` for any class not its own."""

    def find_class(self, module: str, name: str) -> Any:
        """The class, if a checkpoint has it."""
        if (module, name) in KNOWN or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def check_folder(folder: Path) -> None:
    """Raises ``UserError`` for a sharded checkpoint with other metadata, or with a pipe in it."""
    try:
        check_below(folder)
    except OSError as error:
        raise UserError(
            f"The sharded checkpoint {folder} cannot be read ({error.filename}: {error.strerror}); take another."
        ) from error
    with open_regular(folder / FILE) as file:
        read_metadata(file)


def read_metadata(file: Any) -> metadata.Metadata:
    """The metadata in a file. Raises ``UserError`` for what is not the metadata of a checkpoint, or leads elsewhere."""
    try:
        found = MetadataUnpickler(file).load()
        if not isinstance(found, metadata.Metadata):
            raise pickle.UnpicklingError("it holds something else")
        for stored in (found.storage_data or {}).values():
            if PurePosixPath(stored.relative_path).name != str(stored.relative_path):
                raise pickle.UnpicklingError(f"it names the file {stored.relative_path}")
        return found
    except Exception as error:  # a damaged pickle raises anything
        raise UserError(
            f"The sharded checkpoint {getattr(file, 'name', '')} is damaged or holds more than a checkpoint does "
            f"({error}), which could run code; take another."
        ) from error


@contextmanager
def restricted(weights_only: bool = True) -> Iterator[None]:
    """In here sharded checkpoints run no code when they are read. Does nothing where ``weights_only`` is false."""
    if not weights_only:
        yield
        return
    reader, lazy = filesystem.FileSystemReader, lightning_load._LazyLoadingUnpickler
    plain = lazy.find_class

    def read(self: filesystem.FileSystemReader, *arguments: Any, **options: Any) -> metadata.Metadata:
        with self.fs.create_stream(self._get_metadata_path(options.get("rank")), "rb") as file:
            found = read_metadata(file)
        found.storage_meta = found.storage_meta or metadata.StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found

    def load_bytes(self: DefaultLoadPlanner, item: ReadItem, value: BytesIO) -> None:
        torch.load(value, map_location="meta", weights_only=True)  # raises for what the next line would run
        value.seek(0)
        plain_bytes(self, item, value)

    def find_class(self: Any, module: str, name: str) -> Any:
        if (module, name) in REBUILT or f"{module}.{name}" in _weights_only_unpickler._get_allowed_globals():
            return plain(self, module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    plain_bytes = DefaultLoadPlanner.load_bytes
    with (
        _replaced(reader, "read_metadata", read),
        _replaced(DefaultLoadPlanner, "load_bytes", load_bytes),
        _replaced(lazy, "find_class", find_class),
    ):
        yield


@contextmanager
def _replaced(owner: type, name: str, function: Any) -> Iterator[None]:
    former = getattr(owner, name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        setattr(owner, name, former)
