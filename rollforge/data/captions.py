"""Captions of videos: a text next to each, or one JSON lines or CSV file for all."""

from __future__ import annotations

import logging
from pathlib import Path

from rollforge.data.prompt_files import KEYS, numbered_lines, table_rows
from rollforge.errors import UserError
from rollforge.files.reading import MANIFEST, caption, parse_json, read_json, read_text

log = logging.getLogger(__name__)

FILE_SIZE = 200_000_000  # bytes of a file of captions
NAMES = ("file_name", "file", "video", "path", "name")
"""What a video is called by: as a key of JSON, and as the name of a column."""
TEXTS = ("caption", *(key for key in KEYS if key != "caption"))
EXPECTED = f"expected a video ({' or '.join(NAMES)}) and its caption ({' or '.join(TEXTS)})"


class Captions:
    """The captions of the videos below a folder.

    Args:
        folder: of the videos.
        file: JSON lines or CSV with the names of videos, as paths below the folder or as file names, and their
            captions. A line that cannot be read is named in a warning and left out. Default: the text of ``name.mp4``
            is in ``name.txt``, or in ``name.json`` under ``caption``.
    """

    def __init__(self, folder: Path, file: Path | None = None) -> None:
        self.folder, self.file = folder, file
        self.by_name = {} if file is None else read_captions(file)

    def of(self, video: Path) -> str:
        """The caption of a video; empty where there is none. Raises ``UserError`` for a text that cannot be read."""
        relative = video.relative_to(self.folder)
        for name in (relative.as_posix(), relative.name, relative.stem):
            if name in self.by_name:
                return self.by_name[name]
        return caption(video, self.folder) or self._json(video)

    def missing(self, videos: list[Path]) -> list[Path]:
        """Videos without a caption in the file; empty without a file."""
        if self.file is None:
            return []
        names = self.by_name.keys()
        return [each for each in videos if not names & {each.relative_to(self.folder).as_posix(), each.name, each.stem}]

    @staticmethod
    def _json(video: Path) -> str:
        described = video.with_suffix(".json")
        if described.is_symlink() or not described.is_file():
            return ""
        content = read_json(described, MANIFEST, "caption")
        found = next((content[key] for key in TEXTS if isinstance(content, dict) and key in content), "")
        return str(found).strip()


def read_captions(file: Path) -> dict[str, str]:
    """Captions by the name of a video. Raises ``UserError`` for a file in which none can be read."""
    text = read_text(file, FILE_SIZE, "file of captions")
    suffix = file.suffix.lower()
    if suffix not in (".jsonl", ".ndjson", ".csv", ".tsv"):
        raise UserError(f"{file} is not a file of captions; give JSON lines (.jsonl) or a table (.csv).")
    found, wrong = _json_lines(text, file) if suffix.endswith("l") or suffix == ".ndjson" else _table(text, file)
    for where in wrong[:10]:
        log.warning("%s: %s. It is left out.", where, EXPECTED)
    if len(wrong) > 10:
        log.warning("%s: %s more lines like these are left out.", file, len(wrong) - 10)
    if not found:
        raise UserError(f"{file} holds no caption that can be read; {EXPECTED} on each line.")
    return found


def _json_lines(text: str, file: Path) -> tuple[dict[str, str], list[str]]:
    found, wrong = {}, []
    for line, where in numbered_lines(text, file):
        try:
            content = parse_json(line)
        except ValueError:
            content = None
        name, value = (
            next((content[key] for key in keys if isinstance(content, dict) and key in content), None)
            for keys in (NAMES, TEXTS)
        )
        if isinstance(name, str) and isinstance(value, str):
            found[name] = value.strip()
        else:
            wrong.append(where)
    return found, wrong


def _table(text: str, file: Path) -> tuple[dict[str, str], list[str]]:
    rows = table_rows(text, file)
    head = [cell.strip().casefold() for cell in rows[0][0]] if rows else []
    name, content = (next((head.index(key) for key in keys if key in head), None) for keys in (NAMES, TEXTS))
    if name is None or content is None:
        raise UserError(f"{file}: the first row must name the columns; {EXPECTED}.")
    good = [row for row, _ in rows[1:] if len(row) == len(head)]
    return {row[name].strip(): row[content].strip() for row in good}, [
        w for row, w in rows[1:] if len(row) != len(head)
    ]
