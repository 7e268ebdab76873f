"""Snapshots of a rollout in a folder: the newest few, each whole, under a checksum, or absent."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollforge.errors import UserError
from rollforge.files.checksummed import Damaged, read_sealed, write_sealed
from rollforge.files.reading import parse_json
from rollforge.renamed import renamed
from rollforge.snapshots.folder import clear, file_name, numbered, remove, sweep
from rollforge.snapshots.packing import pack, unpack
from rollforge.state import State

log = logging.getLogger(__name__)

STEM = "snapshot"
PROCESS = "process-"


@dataclass(frozen=True)
class Snapshot:
    """A state to resume from.

    Args:
        number: blocks finished by then.
        state: as it was saved, on the CPU.
        identity: what it belongs to, as JSON gives it back.
        path: the file it came from.
    """

    number: int
    state: State
    identity: dict[str, Any]
    path: Path


class SnapshotStore:
    """Keeps the newest snapshots of a rollout as ``snapshot-<blocks finished>.safetensors``.

    Args:
        folder: their folder; created with the first snapshot.
        keep: how many are kept. With more than one, a damaged one costs an interval and not the rollout.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        if keep < 1:
            raise UserError(f"At least 1 snapshot must be kept, not {keep}.")
        self.folder, self.keep = folder, keep

    def save(self, number: int, state: State, identity: dict[str, Any]) -> None:
        """Writes a snapshot, then deletes the oldest, and those of later blocks, which an earlier run has left.

        One tensor at a time is copied to the CPU, hashed and written; on the CPU contiguous tensors are not copied.

        Raises:
            UserError: where it cannot be written, or the state holds what no snapshot can. The older ones stay.
        """
        sweep(self.folder, STEM)
        tree, tensors = pack(state)
        words = {
            "number": str(number),
            "identity": json.dumps(identity, default=str),
            "tree": json.dumps(tree, allow_nan=False),
        }
        write_sealed(self.folder / file_name(STEM, number), STEM, words, tensors)
        numbers = [each for each, _ in numbered(self.folder, STEM) if each <= number]
        for each, path in numbered(self.folder, STEM):
            if each not in numbers[-self.keep :]:
                remove(path)

    def newest(self) -> Snapshot | None:
        """The newest valid snapshot; None if none was ever saved. Raises as ``all`` does."""
        return next(self.all(), None)

    def all(self) -> Iterator[Snapshot]:
        """Valid snapshots, the newest first, read lazily. Damaged ones are named in a warning.

        Raises:
            UserError: where there are snapshots and none is valid.
        """
        found = numbered(self.folder, STEM)
        good = 0
        for number, path in reversed(found):
            try:
                snapshot = _read(number, path)
            except Damaged as reason:
                log.warning("The snapshot %s cannot be used (%s); trying the previous one.", path, reason)
                continue
            good += 1
            yield snapshot
            del snapshot  # two of them may be more than the memory holds
        if found and not good:
            raise UserError(
                f"None of the {len(found)} snapshots in {self.folder} can be used, as the warnings say; start over "
                "with --overwrite true."
            )

    def read(self, number: int) -> Snapshot:
        """The snapshot after ``number`` blocks. Raises ``UserError`` where there is none, or it is damaged."""
        path = self.folder / file_name(STEM, number)
        try:
            return _read(number, path)
        except (Damaged, OSError) as error:
            raise UserError(
                f"The snapshot {path} cannot be used ({error}); start over with --overwrite true."
            ) from error

    def share(self, process: int) -> SnapshotStore:
        """That of another process of the same video, in a folder next to these snapshots.

        It keeps one more, since it is written first.
        """
        return SnapshotStore(self.folder / f"{PROCESS}{process}", self.keep + 1)

    def clear(self) -> None:
        """Removes the snapshots, those of other processes of the video too, what killed writes left, and the folder
        when nothing else is in it."""
        for folder in (self.folder, *self.folder.glob(f"{PROCESS}*"), self.folder):
            clear(folder, STEM)


def _read(number: int, path: Path) -> Snapshot:
    words, tensors = read_sealed(path, STEM)
    try:
        identity = renamed(parse_json(words["identity"]))
        state = unpack(json.loads(words["tree"]), tensors)
        recorded = int(words["number"])
    except (ValueError, KeyError, RecursionError) as error:
        raise Damaged("its content is garbled") from error
    if not isinstance(identity, dict):
        raise Damaged("its content is garbled")
    if recorded != number:
        raise Damaged(f"it is the snapshot of block {recorded} under another name")
    return Snapshot(number, state, identity, path)
