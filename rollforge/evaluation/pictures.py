"""Images of an evaluation: its curves, and contact sheets of its videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rollforge.evaluation import plots
from rollforge.evaluation.evaluation import Evaluation
from rollforge.video import sheet as contact
from rollforge.video.sheet import ContactSheet


def draw_all(evaluation: Evaluation, sheets: Sequence[ContactSheet], out: Path) -> list[Path]:
    """Writes ``sheet.png``, ``curves.png``, and further sheets for videos of other lengths. Returns their paths."""
    made = []
    alike: dict[tuple[float, ...], list[ContactSheet]] = {}
    for each in sheets:
        alike.setdefault(tuple(each.times), []).append(each)
    title = evaluation.policy or (evaluation.source.name if evaluation.source else "")
    for number, rows in enumerate(alike.values(), 1):
        made.append(out / ("sheet.png" if number == 1 else f"sheet-{number}.png"))
        contact.save(contact.draw(rows, title, evaluation.horizon_seconds), made[-1])
    figure = plots.draw(evaluation.groups, evaluation.horizon_seconds)
    if figure is not None:
        made.append(out / "curves.png")
        plots.save(figure, made[-1])
    return made
