"""Small pieces of HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from rollforge.comparison.tables import cell
from rollforge.metrics.interval import Interval

COLOURS = 8


def named(n: int, label: str) -> str:
    """A point with its colour."""
    return f'<i class="swatch c{n % COLOURS}" aria-hidden="true"></i>{escape(label)}'


def figure(found: Interval) -> str:
    """A mean, and its interval small next to it or below."""
    shown, _, bounds = cell(found).partition(" ")
    return f"{shown} <small>{bounds.strip('()')}</small>" if bounds else shown


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in a box that scrolls by itself; what is given is HTML."""
    top = "".join(f'<th scope="col">{each}</th>' for each in head)
    lines = []
    for first, *rest in rows:
        cells = "".join(f"<td>{each}</td>" for each in rest)
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    body = f"<thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="box" tabindex="0"><table>{body}</table></div>'


def folded(summary: str, content: str) -> str:
    """Content that opens when it is asked for; both are HTML."""
    return f"<details><summary>{summary}</summary>{content}</details>"


def note(text: str) -> str:
    """A remark, HTML."""
    return f'<p class="note">{text}</p>'
