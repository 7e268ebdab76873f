"""Rows of the check: written as JSON lines by a stage, read back, and formatted as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Value = str | int | float | bool | list[float] | dict[str, int]


@dataclass(frozen=True)
class Row:
    """One result.

    Args:
        stage: the stage that found it.
        what: what was run.
        ok: whether it is right; None for a measurement, or for something skipped.
        values: the numbers, by name with the unit; ``error`` or ``skipped`` hold a text.
    """

    stage: str
    what: str
    ok: bool | None = None
    values: dict[str, Value] = field(default_factory=dict)


class Recorder:
    """Appends the rows of one stage to a file, so that those before a crash or a time limit are kept."""

    def __init__(self, stage: str, file: Path) -> None:
        self.stage, self.file = stage, file

    def __call__(self, what: str, values: Mapping[str, Value], ok: bool | None = None) -> None:
        """Adds a row."""
        with self.file.open("a") as file:
            file.write(json.dumps(asdict(Row(self.stage, what, ok, dict(values)))) + "\n")


def read_rows(file: Path) -> list[Row]:
    """The rows of a file, without a last line that was cut off."""
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [Row(**json.loads(line)) for line in lines if line.endswith("\n")]


def table(rows: Iterable[Row]) -> str:
    """One line for each row: stage, what, result, values."""
    cells = [(row.stage, row.what, _result(row), _values(row.values)) for row in rows]
    widths = [max((len(cell[column]) for cell in cells), default=0) for column in range(3)]
    return "\n".join(
        "  ".join([*(text.ljust(width) for text, width in zip(cell, widths, strict=False)), cell[3]]).rstrip()
        for cell in cells
    )


def _result(row: Row) -> str:
    if row.ok is None:
        return "skipped" if "skipped" in row.values else ""
    return "ok" if row.ok else "FAILED"


def _values(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_text(value)}" for name, value in values.items())


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(f"{each:.4g}" for each in value)
    return str(value)
