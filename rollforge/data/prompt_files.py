"""Prompt files as editors, spreadsheets and other tools write them."""

from __future__ import annotations

import csv
import re
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from rollforge.errors import UserError
from rollforge.files.reading import parse_json, read_bytes, read_text

SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")
FILE_SIZE = 10_000_000  # bytes of a prompt file
KEYS = ("prompt", "prompt_en", "text", "caption")
"""What other tools call a prompt: as a key of JSON, and as the name of a column."""
EXPECTED = f'expected {{"prompt": "..."}} or {{"prompts": ["...", "..."]}} (also read: {", ".join(KEYS[1:])})'


class Entry(NamedTuple):
    """What a file states about a video, and where. ``prompt``: a text, or a list of texts and mappings over time."""

    prompt: Any
    where: str


def read_file(path: Path) -> list[Entry]:
    """The prompts of each video in a prompt file. Its suffix decides the format; unknown ones are read as text.

    Raises:
        UserError: for a file that is missing, empty or unreadable.
    """
    entries = _entries(read_text(path, FILE_SIZE, "prompt file"), path)
    if not entries:
        raise UserError(f"The prompt file {path} is empty; write one prompt on each line.")
    return entries


def count(path: Path) -> int:
    """How many videos an unusable prompt file lists, as far as that is known; at least one."""
    try:
        text = read_bytes(path, FILE_SIZE, "prompt file").decode(errors="replace")
    except UserError:
        return 1
    try:
        return max(1, len(_entries(text, path)))
    except UserError:
        by_line = path.suffix.lower() != ".json"
        return max(1, len(numbered_lines(text, path))) if by_line else 1


def _entries(text: str, path: Path) -> list[Entry]:
    read = {".csv": _table, ".tsv": _table, ".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json}
    return read.get(path.suffix.lower(), _lines)(text, path)


def _lines(text: str, path: Path) -> list[Entry]:
    """A prompt on each line. Skips empty lines and those that begin with ``# ``; removes quotes around a line."""
    return [
        Entry(_unquoted(line), where)
        for line, where in numbered_lines(text, path)
        if not (line == "#" or line.startswith("# "))
    ]


def numbered_lines(text: str, path: Path) -> list[tuple[str, str]]:
    """Lines that are not empty, and where they are. (``str.splitlines`` also ends lines within a prompt.)"""
    lines = enumerate(re.split(r"\r\n|\r|\n", text), 1)
    return [(line.strip(), f"{path}, line {number}") for number, line in lines if line.strip()]


def _unquoted(line: str) -> str:
    quoted = len(line) > 2 and line[0] == line[-1] == '"' and '"' not in line[1:-1]
    return line[1:-1] if quoted else line


def _json_lines(text: str, path: Path) -> list[Entry]:
    return [Entry(_prompts(_parsed(line, where), where), where) for line, where in numbered_lines(text, path)]


def _json(text: str, path: Path) -> list[Entry]:
    """A list of what a line of JSON lines holds, or one of them."""
    content = _parsed(text, str(path)) if text.strip() else []
    members = content if isinstance(content, list) else [content]
    wheres = [f"{path}, entry {number}" for number in range(1, len(members) + 1)]
    return [Entry(_prompts(each, where), where) for each, where in zip(members, wheres, strict=True)]


def _parsed(text: str, where: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(f"{where}: {EXPECTED}, not JSON that cannot be read ({error}).") from error


def _prompts(content: Any, where: str) -> Any:
    """The prompt or prompts of one video."""
    if isinstance(content, str):
        return content
    key = next((key for key in ("prompts", *KEYS) if isinstance(content, dict) and key in content), None)
    if key is None:
        raise UserError(f"{where}: {EXPECTED}, not {content!r:.80}.")
    return content[key]


def _table(text: str, path: Path) -> list[Entry]:
    """A prompt in each row, in a column that the first row names. A table of one column needs no such row."""
    rows = table_rows(text, path)
    if not rows:
        return []
    (head, where), body = rows[0], rows[1:]
    names = [cell.strip().casefold() for cell in head]
    column = next((names.index(key) for key in (*KEYS, "prompts") if key in names), None)
    if column is None and len(names) > 1:
        raise UserError(
            f"{where}: the first row of a table must name the column of prompts ({' or '.join(KEYS)}), not only "
            f"{', '.join(head):.120}; a prompt with a comma needs quotes around it."
        )
    for row, place in body:
        if len(row) > len(names):
            raise UserError(
                f"{place}: {len(row)} cells under {len(names)} names; put quotes around a prompt with commas."
            )
    if column is None:
        return [Entry(row[0], place) for row, place in rows]
    return [Entry(row[column] if column < len(row) else "", place) for row, place in body]


def table_rows(text: str, path: Path) -> list[tuple[list[str], str]]:
    """The rows in which something stands, and where they end."""
    declared = re.match(r"sep=(.)\r?\n", text)  # which Excel writes, and shows to nobody
    text = text[declared.end() :] if declared else text
    first = text.lstrip().partition("\n")[0]
    separator = declared[1] if declared else "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
    one_column = separator not in first
    reader = csv.reader(StringIO(text, newline=""), delimiter="\x1f" if one_column else separator)
    skipped = 1 if declared else 0
    try:
        return [(row, f"{path}, line {reader.line_num + skipped}") for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise UserError(f"The prompt file {path} is not a table that can be read ({error}); save it as CSV.") from error
