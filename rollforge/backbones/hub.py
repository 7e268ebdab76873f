"""Names on the Hugging Face hub, ``owner/repository`` or ``owner/repository:path/in/it``, and their download."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

from rollforge.errors import UserError

NAME = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(?::(?P<path>[^:\\]+))?")
FILE = re.compile(r"\.(?:safetensors|pt|pth|ckpt|bin|gguf|json|model)$")
EXAMPLE = "gdhe17/Self-Forcing:checkpoints/self_forcing_dmd.pt"


@dataclass(frozen=True)
class HubName:
    """A repository, and a file or folder in it; with an empty ``path`` all of it."""

    repository: str
    path: str = ""

    @classmethod
    def parse(cls, name: str, files: tuple[str, ...] = ()) -> Self | None:
        """What a name means on the hub; None for a name that can only be one of a local file.

        Args:
            name: what the user wrote.
            files: suffixes of files. ``folder/name.pt`` is a local file, though a repository could be called so.
        """
        found = NAME.fullmatch(name)
        if found is None or not name.isprintable() or (not found["path"] and name.endswith(files)):
            return None
        path = PurePosixPath(found["path"] or "")
        if path.is_absolute() or ".." in path.parts or str(path).startswith("-"):
            return None
        return cls(found["repository"], "" if path == PurePosixPath() else str(path))

    @property
    def is_file(self) -> bool:
        """Whether the path is that of a file and not of a folder."""
        return bool(FILE.search(self.path))

    def patterns(self, wanted: tuple[str, ...], companions: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The files to download: the one that is named and its companions, or the ``wanted`` ones of a folder."""
        path = PurePosixPath(self.path)
        if self.is_file:
            return (self.path, *(str(path.with_name(name)) for name in companions))
        return tuple(str(path / each) for each in wanted)

    def command(self, wanted: tuple[str, ...], folder: str | None = None) -> str:
        """The shell command that downloads it, into the hub's cache or a ``folder``."""
        chosen = [self.path] if self.is_file else ["--include", *self.patterns(wanted)]
        return shlex.join(["hf", "download", self.repository, *chosen, *(["--local-dir", folder] if folder else [])])

    def download(
        self,
        wanted: tuple[str, ...],
        what: str,
        companions: tuple[str, ...] = (),
        folder: str | None = None,
        option: str = "weights",
    ) -> Path:
        """The file or folder on this machine: in the hub's cache, or in ``folder``.

        Args:
            wanted: patterns of the files to take of a repository or folder.
            what: who is asking, for errors.
            companions: names of files to download too, if they exist.
            folder: where to download to; the hub's cache unless given.
            option: what the user names local files with, for errors.

        Raises:
            UserError: where it cannot be fetched, with the command that does.
        """
        try:
            from huggingface_hub import snapshot_download
        except ImportError as error:
            raise UserError(
                f"{what}: {self} is not a file or folder here, and a hub name needs the package huggingface_hub, which "
                "is not installed; install it with pip install 'rollforge[wan]'."
            ) from error
        try:
            options: dict[str, Any] = {"local_dir": folder} if folder else {}
            root = snapshot_download(self.repository, allow_patterns=list(self.patterns(wanted, companions)), **options)
        except Exception as error:  # whatever the network, the hub or its cache may come up with
            raise UserError(
                f"{what}: {self} is not a file or folder here, and the hub did not give it ({first_line(error)}); "
                f"download it where there is a network with `{self.command(wanted)}` (from "
                f"https://huggingface.co/{self.repository}), and name the file or folder with "
                f"{option}."
            ) from error
        found = Path(root, self.path)
        if self.path and not found.exists():
            raise UserError(
                f"{what}: the hub did not give {self}: there is no network, or no such file; see "
                f"https://huggingface.co/{self.repository}."
            )
        return found

    def __str__(self) -> str:
        return f"{self.repository}:{self.path}" if self.path else self.repository


def first_line(error: Exception) -> str:
    """What an error says, in one line without a full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
