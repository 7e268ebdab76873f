"""A folder of clips as tensors, one checksummed file each, written once and reused."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from torch import Tensor

from rollforge.errors import UserError
from rollforge.files.checksummed import Damaged, read_header, read_sealed, write_sealed
from rollforge.files.reading import MANIFEST, read_json
from rollforge.files.writing import write_json

CHECKED = "checked.json"
"""Size and date of each file when its content was last compared with its checksum."""


class ClipStore:
    """Files below a folder.

    Args:
        folder: where they lie; it need not be there yet.
        kind: what they are, such as ``trajectory``; files of another kind are refused.
        remedy: what to do about a damaged one, for error messages.
        tensors: that each of them holds.
        words: metadata that each of them holds.
    """

    SUFFIX = ".clip"

    def __init__(
        self, folder: Path, kind: str, remedy: str, tensors: Collection[str], words: Collection[str] = ()
    ) -> None:
        self.folder, self.kind, self.remedy = folder, kind, remedy
        self.tensors, self.words = tensors, words

    def path(self, name: str) -> Path:
        """The file of a clip."""
        return self.folder / f"{name}{self.SUFFIX}"

    def holds(self, name: str) -> bool:
        """Whether the file is there. Files appear whole or not at all."""
        return self.path(name).is_file()

    def names(self) -> list[str]:
        """The clips that are there, in order."""
        return sorted(file.name.removesuffix(self.SUFFIX) for file in self.folder.glob(f"*{self.SUFFIX}"))

    def write(self, name: str, words: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
        """Writes a file, whole or not at all."""
        write_sealed(self.path(name), self.kind, words, tensors)

    def read(self, name: str) -> tuple[dict[str, str], dict[str, Tensor]]:
        """Words and tensors of a clip. Raises ``UserError`` for a damaged file."""
        try:
            words, tensors = read_sealed(self.path(name), self.kind)
            self._check_complete(words, tensors)
            return words, tensors
        except Damaged as error:
            raise self._damaged(name, error) from error

    def check(self, names: Iterable[str]) -> None:
        """Raises ``UserError`` for the first damaged file.

        Headers and sizes are always checked, contents where size or date have changed since they were last.
        """
        known = self._known()
        found: dict[str, list[int]] = {}
        for name in names:
            try:
                header = read_header(self.path(name), self.kind)
                self._check_complete(header.words, {entry.name for entry in header.entries})
                stat = self.path(name).stat()
                found[name] = [stat.st_size, stat.st_mtime_ns]
                if known.get(name) != found[name]:
                    read_sealed(self.path(name), self.kind)
            except (Damaged, FileNotFoundError) as error:
                raise self._damaged(name, error) from error
        if any(known.get(name) != each for name, each in found.items()):
            write_json(self.folder / CHECKED, known | found)

    def _check_complete(self, words: Collection[str], tensors: Collection[str]) -> None:
        if absent := [*{*self.tensors} - {*tensors}, *{*self.words} - {*words}]:
            raise Damaged(f"it holds no {min(absent)}")

    def _known(self) -> dict[str, list[int]]:
        try:
            known = read_json(self.folder / CHECKED, MANIFEST, "file")
        except UserError:
            return {}
        return known if isinstance(known, dict) else {}

    def _damaged(self, name: str, error: Exception) -> UserError:
        why = str(error) if isinstance(error, Damaged) else "missing"
        return UserError(f"The {self.kind} {self.path(name)} is damaged ({why}); {self.remedy}.")
