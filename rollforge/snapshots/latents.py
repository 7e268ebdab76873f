"""Finished latents on the disk, so that they are available after a kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from rollforge.errors import UserError
from rollforge.files.checksummed import Damaged, read_header, read_sealed, write_sealed
from rollforge.snapshots.folder import clear, file_name, numbered, remove, sweep

STEM = "latents"


class LatentStore:
    """Keeps finished blocks ``[B, F, C, H, W]`` in files ``latents-<first frame>.safetensors``, one for each interval.

    In memory there is never more than one of the files.

    Args:
        folder: their folder; created with the first file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def frames(self) -> int:
        """Frames up to the end of the newest file, which alone is looked into."""
        found = numbered(self.folder, STEM)
        return _stop(*found[-1]) if found else 0

    def append(self, blocks: list[Tensor], start_frame: int) -> None:
        """Writes the blocks made since the last call as one file, whole or not at all.

        Raises:
            UserError: where it cannot be written.
            ValueError: for blocks that do not start where the last file ends, and for other tensors.
        """
        if any(block.dim() != 5 or not block.shape[1] for block in blocks):
            raise ValueError(f"blocks must be [B, F, C, H, W], not {[list(block.shape) for block in blocks]}")
        if start_frame != (stop := self.frames):
            raise ValueError(f"the latents end at frame {stop}; blocks from frame {start_frame} on do not follow")
        if blocks:
            sweep(self.folder, STEM)
            self._write(blocks, start_frame)

    def read(self, stop: int | None = None) -> Iterator[Tensor]:
        """Yields the blocks as they were appended, on the CPU, up to frame ``stop`` or all of them.

        Raises:
            UserError: for a file that is damaged or missing, and where no block ends at ``stop``.
        """
        done = 0
        for start, path in numbered(self.folder, STEM):
            if stop is not None and start >= stop:
                break
            if start != done:
                raise _unusable(self.folder / file_name(STEM, done), "it is missing, or the file before it is short")
            for block in _blocks(start, path):
                if done == stop:
                    return
                done += block.shape[1]
                if stop is not None and done > stop:
                    raise _unusable(path, f"no block in it ends at frame {stop}")
                yield block
        if stop is not None and done < stop:
            raise _unusable(self.folder / file_name(STEM, done), f"it is missing, and frames up to {stop} are needed")

    def truncate(self, frame: int) -> None:
        """Drops what lies at ``frame`` and beyond: a kill may leave latents that are newer than the snapshot.

        Raises:
            UserError: where a block lies across ``frame``, and where a file that must be cut is damaged.
        """
        for start, path in reversed(numbered(self.folder, STEM)):  # what is left by a kill has no gap
            if start < frame:
                if _stop(start, path) > frame:
                    self._write(_up_to(frame, start, path), start)
                break
            remove(path)

    def clear(self) -> None:
        """Removes the latents and what killed writes left, and the folder when nothing else is in it."""
        clear(self.folder, STEM)

    def _write(self, blocks: list[Tensor], start: int) -> None:
        named = {f"block-{n:06d}": block for n, block in enumerate(blocks)}
        write_sealed(self.folder / file_name(STEM, start), STEM, {"start": str(start)}, named)


def _up_to(frame: int, start: int, path: Path) -> list[Tensor]:
    kept = []
    for block in _blocks(start, path):
        if start == frame:
            break
        kept.append(block)
        start += block.shape[1]
    if start != frame:
        raise _unusable(path, f"no block in it ends at frame {frame}")
    return kept


def _stop(start: int, path: Path) -> int:
    """The frame behind the last of a file, as its header has it."""
    try:
        header = read_header(path, STEM)
        if header.words.get("start") != str(start):
            raise Damaged("it does not start at the frame in its name")
        if any(len(entry.shape) != 5 or not entry.shape[1] for entry in header.entries):
            raise Damaged("it holds other data than blocks")
    except Damaged as reason:
        raise _unusable(path, str(reason)) from reason
    return start + sum(entry.shape[1] for entry in header.entries)


def _blocks(start: int, path: Path) -> Iterator[Tensor]:
    _stop(start, path)  # is it the file that its name says?
    try:
        _, tensors = read_sealed(path, STEM)
    except Damaged as reason:
        raise _unusable(path, str(reason)) from reason
    for name in sorted(tensors):
        yield tensors.pop(name)


def _unusable(path: Path, reason: str) -> UserError:
    return UserError(f"The latents in {path} cannot be used ({reason}); start over with --overwrite true.")
