"""The run of a point: its folder, what is in it, and whether it has to be made."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rollforge.comparison.vary import Point
from rollforge.errors import UserError
from rollforge.files.reading import MANIFEST, open_regular, read_json
from rollforge.files.writing import make_folder, subfolder, write_json

RECORD = "point.json"
LAST_BYTES = 65_536


@dataclass
class Run:
    """One point's ``rollforge test``.

    Args:
        point: the point.
        config: its resolved config.
        hash: of all that its videos depend on.
        runs: the folder that all runs lie in.
        arguments: options of ``rollforge test``, those of the point among them.
        asked: seconds of video, over all prompts.
        training: what makes the weights, where they are made first.
    """

    log: ClassVar[str] = "test.log"
    unit: ClassVar[str] = "s"

    point: Point
    config: dict[str, Any]
    hash: str
    runs: Path
    arguments: Sequence[str]
    asked: float
    training: Run | None = None
    failure: str = field(default="", init=False)

    @property
    def folder(self) -> Path:
        """Its own folder."""
        return self.runs / f"{self.point.slug}-{self.hash[:8]}"

    @property
    def command(self) -> list[str]:
        """What makes it, as arguments of ``rollforge``."""
        trained = ["--ckpt_path", str(self.training.checkpoint)] if self.training else []
        return ["test", *self.arguments, *trained, "--output_dir", str(self.folder)]

    @property
    def checkpoint(self) -> Path:
        """Of a training: what videos are rolled from."""
        return self.folder / "last.ckpt"

    @property
    def losses(self) -> Path:
        """Of a training: one row for each step."""
        return self.folder / "losses.csv"

    @property
    def finished(self) -> bool:
        """Whether this very run is complete."""
        same = self.record.get("hash") == self.hash
        return same and bool(self.manifest.get("complete")) and (self.folder / "metrics.json").is_file()

    @property
    def started(self) -> bool:
        """Whether it can be resumed."""
        return (self.folder / "manifest.json").is_file()

    @property
    def record(self) -> dict[str, Any]:
        """What ``compare`` itself noted."""
        return read_record(self.folder / RECORD)

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest that ``test`` wrote."""
        return read_record(self.folder / "manifest.json")

    @property
    def fps(self) -> float:
        """Frames of a second of video, 0 until it is known."""
        return float(next((each.get("fps") or 0 for each in self.manifest.get("videos", [])), 0))

    def note(self, **more: Any) -> None:
        """Adds to the record."""
        make_folder(subfolder(self.runs.parent, self.runs.name, self.folder.name))
        known = {"hash": self.hash, "label": self.point.label, "options": list(self.point.arguments)}
        kept = self.record if self.record.get("hash") == self.hash else {}
        write_json(self.folder / RECORD, kept | known | {"command": shlex.join(["rollforge", *self.command])} | more)

    def made(self) -> float:
        """Seconds of video that are there, finished or not; all of it where the run is finished."""
        if self.finished:
            return self.asked
        done = {str(each.get("file")): each for each in self.manifest.get("videos", []) if each.get("complete")}
        started = [
            _last_second(path)
            for path in self.folder.glob("*.curves.partial.csv")
            if f"{path.name.removesuffix('.curves.partial.csv')}.mp4" not in done
        ]
        return min(self.asked, sum(float(each.get("seconds") or 0) for each in done.values()) + sum(started))

    def sentence(self) -> str:
        """The last line that the command printed."""
        try:
            with open_regular(self.folder / self.log) as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_BYTES))
                lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
        except OSError:
            lines = []
        printed = [line.strip() for line in lines if line.strip()]
        messages = [line.removeprefix("rollforge: ") for line in printed if line.startswith("rollforge: ")]
        return (messages or printed or ["it printed nothing"])[-1]


def check_apart(runs: Sequence[Run]) -> None:
    """Raises ``UserError`` where two points are one and the same."""
    seen: dict[str, Run] = {}
    for run in runs:
        if run.hash in seen:
            raise UserError(
                f"The points {seen[run.hash].point.named} and {run.point.named} are the same config; leave one out."
            )
        seen[run.hash] = run


def read_record(path: Path) -> dict[str, Any]:
    """A JSON file, nothing where there is none that can be read."""
    try:
        found = read_json(path, MANIFEST, "file")
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def _last_second(path: Path) -> float:
    """The time in the last whole line of a file of curves."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_BYTES))
            lines = file.read().split(b"\n")[:-1]
        return float(lines[-1].split(b",")[1])
    except (OSError, ValueError, IndexError):
        return 0.0
