"""Figures of every point, and their paired differences: what a row of the protocol's tables holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rollforge.comparison.paired import DRAWS, SEED, Values, markdown_table, with_interval
from rollforge.metrics.interval import Interval, interval


@dataclass(frozen=True)
class Quantity:
    """One figure.

    Args:
        name: heads its column.
        values: by label of the point, then by prompt.
        draws: resamples of the prompts.
    """

    name: str
    values: Mapping[str, Values]
    draws: int = DRAWS

    def of(self, label: str) -> Interval:
        """Of one point: the mean over prompts and its interval."""
        return interval(self.values.get(label, {}).values(), draws=self.draws, seed=SEED)

    def difference(self, label: str, other: str) -> Interval:
        """Between two points, prompt by prompt."""
        own, reference = self.values.get(label, {}), self.values.get(other, {})
        both = (value - reference[prompt] for prompt, value in own.items() if prompt in reference)
        return interval(both, draws=self.draws, seed=SEED)


class Row(NamedTuple):
    """A row of a table: whose it is, the run's identity, and the cells, with stars."""

    label: str
    run: str
    cells: list[str]


@dataclass(frozen=True)
class Group:
    """Quantities that are shown in one table.

    Args:
        title: above the table.
        quantities: its columns.
        note: below the title.
    """

    title: str
    quantities: Sequence[Quantity]
    note: str = ""

    def rows(self, runs: Mapping[str, str], against: Sequence[str]) -> list[Row]:
        """The points in the order of ``runs``, label to identity, each with its differences from ``against`` below."""
        found = []
        for label, run in runs.items():
            if not any(quantity.values.get(label) for quantity in self.quantities):
                continue
            found.append(Row(label, run, [with_interval(quantity.of(label), False) for quantity in self.quantities]))
            found += [
                Row(
                    f"{label} minus {other}",
                    "",
                    [with_interval(each.difference(label, other)) for each in self.quantities],
                )
                for other in against
                if other != label
            ]
        return found

    def markdown(self, runs: Mapping[str, str], against: Sequence[str]) -> str:
        """The table; empty where no point has anything."""
        head = ["point", "run", *(quantity.name for quantity in self.quantities)]
        rows = [[row.label, row.run, *row.cells] for row in self.rows(runs, against)]
        return f"{self.title}{f': {self.note}' if self.note else ''}\n\n{markdown_table(head, rows)}" if rows else ""
