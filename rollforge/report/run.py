"""The run folder: which videos exist, which are finished, and under which config."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from rollforge import __version__
from rollforge.data.prompt_suite import PromptSuite
from rollforge.data.requests import CONTENT, Request
from rollforge.errors import UserError
from rollforge.files import safe_yaml
from rollforge.files.locking import locked
from rollforge.files.reading import MANIFEST, bare_name, leads_out, parse_json, plain_name, read_text
from rollforge.files.writing import write
from rollforge.snapshots.identity import changes

Entry = dict[str, Any]
ONCE = ("config", "overwrite", "resume", "force", "weights_only", "verbose", "return_predictions")
"""Keys that are about one run, or known to one command only: a saved config leaves them out."""


@dataclass
class RunFolder:
    """The folder of one config's videos. Finished videos are never generated again unless ``overwrite`` is set.

    Args:
        path: the folder.
        config: the resolved config.
        overwrite: whether to generate finished videos again.
        force: continue the run of another config.
        rank: of this process. All but rank 0 record their videos in ``manifest.rank-<rank>.json``, until ``merge``.
        suite: the identity of the prompts, for the manifest.
    """

    path: Path
    config: dict[str, Any]
    overwrite: bool = False
    force: bool = False
    rank: int = 0
    suite: PromptSuite | None = None
    entries: dict[str, Entry] = field(default_factory=dict, init=False)
    unfinished: dict[str, Entry] = field(default_factory=dict, init=False)  # by an earlier run, and not finished

    @property
    def config_hash(self) -> str:
        """Hash of what decides the pixels: the ``model`` part of the config."""
        return _hash(self.config)

    def made(self, config_hash: str) -> bool:
        """Whether a manifest with that hash is of this config, or of one from before keys were renamed."""
        return config_hash == self.config_hash or self._changes(config_hash) == []

    def create(self) -> None:
        """Makes the folder and puts the resolved config into it, for any command to take."""
        self._make()
        kept = {key: value for key, value in self.config.items() if key not in ONCE}
        write(self.path / "config.yaml", yaml.safe_dump(kept, sort_keys=False))

    def lock(self) -> FileLock:
        """Keeps other runs out of the folder as long as this process lives and holds the result. For rank 0."""
        self._make()
        return locked(self.path)

    def open(self) -> None:
        """Creates the folder, or continues what earlier runs of the same config left there. For rank 0."""
        if not self.overwrite:
            kept = self._kept()
            self.entries = {file: entry for file, entry in kept.items() if entry["complete"]}
            self.unfinished = {file: entry for file, entry in kept.items() if not entry["complete"]}
        self.create()
        self._save()
        self._tidy()

    def expect(self, entries: Iterable[Entry]) -> None:
        """Adds videos that are still to be generated."""
        self.entries |= {entry["file"]: entry for entry in entries}
        self._save()

    def merge(self, others: Iterable[dict[str, Entry]]) -> None:
        """Merges what other processes have recorded. For rank 0, when they are done."""
        for entries in others:
            self.entries |= entries
        self._save()
        self._tidy()

    def name(self, request: Request) -> str:
        """The file name of a request, without suffix."""
        return f"{request.sample:03d}-{plain_name(request.prompt) or 'video'}"

    def finished(self, file: str, request: Request) -> bool:
        """Whether this video exists and is in the manifest. Raises ``UserError`` where another one has its name."""
        if self.overwrite or not (self.path / file).exists():
            return False
        entry = (self._read(self._manifest(0)) if self.rank else self.entries | self.unfinished).get(file, {})
        asked = request.content
        if not entry or any(entry.get(key) != asked.get(key) for key in CONTENT):
            raise UserError(
                f"{self.path / file} exists and is not the video asked for now (same prompts and times, opening, seed "
                "and length); choose another --output_dir, or --overwrite true to replace it."
            )
        return bool(entry["complete"])  # not if a run was killed in its last moment, or while it overwrote this file

    def record(self, *entries: Entry) -> None:
        """Adds videos to the manifest, atomically."""
        self.entries |= {entry["file"]: entry for entry in entries}
        self._save()

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            links = [entry.path for entry in os.scandir(self.path) if entry.is_symlink()]
        except OSError as error:
            raise self._unusable(error) from error
        for link in links:
            if leads_out(Path(link), self.path):
                there = os.path.realpath(link)
                raise UserError(
                    f"{link} is a link to {there}, outside the run folder; remove it, or choose another --output_dir."
                )

    def _unusable(self, error: OSError) -> UserError:
        where = f"{Path(error.filename).name}: " if error.filename not in (None, str(self.path)) else ""
        return UserError(
            f"The output folder {self.path} cannot be used ({where}{error.strerror}); choose another --output_dir."
        )

    def _manifest(self, rank: int) -> Path:
        return self.path / (f"manifest.rank-{rank}.json" if rank else "manifest.json")

    def _save(self) -> None:
        manifest = {
            "rollforge": __version__,
            "config_hash": self.config_hash,
            **({"prompts": self.suite.to_dict()} if self.suite else {}),
            "complete": bool(self.entries) and all(entry["complete"] for entry in self.entries.values()),
            "videos": sorted(self.entries.values(), key=lambda entry: entry["file"]),
        }
        write(self._manifest(self.rank), json.dumps(manifest, indent=2) + "\n")

    def _others(self) -> list[Path]:
        return sorted(self.path.glob("manifest.rank-*.json"))

    def _tidy(self) -> None:
        """Removes the manifests of other ranks, once merged."""
        for file in self._others():
            file.unlink(missing_ok=True)

    def _kept(self) -> dict[str, Entry]:
        """What the manifest says, and those of other ranks that a killed run has left."""
        kept: dict[str, Entry] = {}
        for file in (self._manifest(0), *self._others()):
            if file.exists():
                kept |= self._read(file)
        return kept

    def _read(self, manifest: Path) -> dict[str, Entry]:
        """The entries of a manifest by file. Raises ``UserError`` for a damaged one, and for one of another config."""
        try:
            kept = parse_json(read_text(manifest, MANIFEST, "manifest"))
            found = kept["config_hash"]
            entries = {bare_name(entry["file"], self.path): entry for entry in kept["videos"]}
            _ = [entry["complete"] for entry in entries.values()]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{manifest} is damaged ({error}); move it away, or choose another --output_dir."
            ) from error
        if not self.force and not self.made(found):
            changed = "; ".join(self._changes() or ())
            raise UserError(
                f"{self.path} holds videos of another config{changed and f' ({changed})'}; choose "
                "another --output_dir, --overwrite true to replace them, or --resume --force to continue anyway."
            )
        return entries

    def _changes(self, config_hash: str | None = None) -> list[str] | None:
        """What has changed since the config that lies in the folder; nothing where it cannot be read.

        With ``config_hash``: nothing either where that config is not the one of the hash.
        """
        file = self.path / "config.yaml"
        try:
            text = read_text(file, safe_yaml.SIZE, "config")
            if config_hash not in (None, _hash(safe_yaml.as_written(text, str(file)))):
                return None
            former = safe_yaml.loads(text, str(file))["model"]
            return changes({"model": former}, {"model": self.config.get("model", {})})
        except (UserError, ValueError, KeyError, TypeError, AttributeError):
            return None


def _hash(config: Mapping[str, Any]) -> str:
    """Hash of the ``model`` part of a config."""
    text = json.dumps(config.get("model", {}), sort_keys=True, default=str)
    return sha256(text.encode()).hexdigest()[:16]
