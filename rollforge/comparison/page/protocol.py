"""The part of the page that says what the figures were taken of, and the tables of the protocol."""

from __future__ import annotations

from html import escape

from rollforge.comparison.page.html import folded, note, table
from rollforge.comparison.protocol import HOW, Protocol
from rollforge.comparison.quantities import Group
from rollforge.comparison.run_result import RunResult
from rollforge.evaluation.run_identity import RunIdentity

VIDEO = ["file", "MD5 of the frames", "noise", "commit", "policy", "blocks that read otherwise"]


def tables(protocol: Protocol) -> str:
    """Prompts, runs and diagnostics; every dimension and every video opens when it is asked for."""
    suites = "".join(f"<p>Prompts: {escape(suite)}.</p>" for suite in protocol.suites)
    head, rows = protocol.runs_table()
    runs = table(head, [[escape(cell) for cell in row] for row in rows])
    diagnostics = "".join(f"<h3>{_title(each)}</h3>{_table(each, protocol)}" for each in protocol.diagnostics)
    dimensions = "".join(folded(_title(each), _table(each, protocol)) for each in protocol.dimensions)
    videos = "".join(folded(escape(label), _videos(point)) for label, point in protocol.points.items())
    return (
        f"{suites}{runs}{diagnostics}<h3>Every dimension</h3>{note(escape(HOW))}{dimensions}"
        f"<h3>Every video</h3>{videos}"
    )


def _title(group: Group) -> str:
    return escape(f"{group.title}: {group.note}" if group.note else group.title)


def _table(group: Group, protocol: Protocol) -> str:
    rows = group.rows(protocol.runs, protocol.against)
    head = ["point", "run", *(quantity.name for quantity in group.quantities)]
    return table(_escaped(head), (_escaped([row.label, row.run, *row.cells]) for row in rows))


def _videos(point: RunResult) -> str:
    rows = []
    for video in point.videos.values():
        one = RunIdentity.of([video])
        md5 = str(video.get("md5") or "-")
        rows.append(_escaped([str(video.get("file")), md5, one.noise, one.commit, one.policy, one.activity]))
    return table(VIDEO, rows)


def _escaped(texts: list[str]) -> list[str]:
    return [escape(text) for text in texts]
