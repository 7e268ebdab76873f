"""Text from data in figures: drawn as it is, not read as mathematics, which a ``$`` would begin."""

from __future__ import annotations

from typing import Any

from rollforge.errors import printable


def literal(text: str) -> str:
    """A label that matplotlib shows: without control characters, and not hidden, as one after ``_`` would be."""
    plain = printable(text)
    return f" {plain}" if plain.startswith("_") else plain


def legend(axes: Any, **options: Any) -> None:
    """A legend whose labels are drawn as they are."""
    for text in axes.legend(**options).get_texts():
        text.set_parse_math(False)
