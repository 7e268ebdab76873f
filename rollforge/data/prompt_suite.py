"""What a prompt suite is known by: the hash of its file, how many prompts are taken of it, and their order."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from rollforge.data.prompt_files import FILE_SIZE, SUFFIXES
from rollforge.data.requests import Prompt, read_videos
from rollforge.files.reading import listed, read_bytes


@dataclass(frozen=True)
class PromptSuite:
    """The prompts of a run. No list comes with rollforge: the file is the user's.

    Attributes:
        name: of the file or folder; empty for prompts that the config states itself.
        sha256: of the bytes of the file; of a folder, of its prompt files' names and bytes; empty for a config's own.
        held: prompts that the file holds.
        count: of these, the first so many are used.
        order: hash of the prompts used, in their order.
        members: hash of the same prompts, sorted: equal for two suites that differ in nothing but the order.
    """

    name: str
    sha256: str
    held: int
    count: int
    order: str
    members: str

    @classmethod
    def of(cls, prompts: Sequence[Prompt] | str, first: int | None = None) -> Self:
        """Reads ``data.prompts``, of which the ``first`` so many are used. Raises ``UserError`` as ``read_videos``."""
        videos = read_videos(prompts, lambda file, why: None)
        path = Path(os.path.expanduser(prompts)) if isinstance(prompts, str | Path) else None
        given = path is not None and os.path.exists(path)
        name, digest = (path.name, _digest(path)) if path is not None and given else ("", "")
        used = [" | ".join(shot.prompt for shot in video.shots) for video in videos[:first] if video.shots]
        return cls(name, digest, len(videos), len(used), _hash(used), _hash(sorted(used)))

    def __str__(self) -> str:
        of = f" of {self.held}" if self.count < self.held else ""
        source = f"{self.name}, sha256 {self.sha256}" if self.name else "stated in the config"
        return f"{source}; {self.count}{of} prompts, in the order {self.order[:12]}, sorted {self.members[:12]}"

    def to_dict(self) -> dict[str, Any]:
        """For ``manifest.json``."""
        return asdict(self)


def _hash(texts: Iterable[str]) -> str:
    return sha256(json.dumps(list(texts)).encode()).hexdigest()


def _digest(path: Path) -> str:
    """Of a file's bytes, as ``sha256sum`` prints it; of a folder, of the names and digests of its prompt files."""
    if not path.is_dir():
        return sha256(read_bytes(path, FILE_SIZE, "prompt file")).hexdigest()
    return _hash(f"{file.name} {_digest(file)}" for file in listed(path, SUFFIXES, "prompt file"))
