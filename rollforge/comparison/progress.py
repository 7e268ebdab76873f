"""How far a comparison has come: a table that is redrawn on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence

from rollforge.comparison.runs import Run
from rollforge.errors import printable

EVERY, PLAIN_EVERY = 1.0, 60.0  # seconds between two looks at the files; between two plain lines
HEAD = ("point", "state", "made", "FPS", "left")
CLEAR, UP = "\x1b[K", "\x1b[{}F"


class Progress:
    """Progress of each run: seconds of video generated, frames per second, time left.

    Args:
        runs: all of them. Finished ones are shown as reused.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.states = {run.hash: "reused" if run.finished else "waiting" for run in runs}
        self.made = {run.hash: run.made() for run in runs}
        self.speed: dict[str, float] = {}
        self.began, self.before, self.looked, self.printed = 0.0, 0.0, 0.0, 0.0
        self.current: Run | None = None
        self.redraws = sys.stdout.isatty()
        self.lines = 0
        if self.redraws:
            self._draw()
        else:
            for run in runs:
                if self.states[run.hash] == "reused":
                    self._line(run)

    def start(self, run: Run) -> None:
        """A run starts."""
        self.current, self.began, self.before = run, time.perf_counter(), run.made()
        self.printed = self.began
        self._now(run, "running")

    def look(self) -> None:
        """Reads how far the current run is, no more often than is useful."""
        now = time.perf_counter()
        if self.current is None or now - self.looked < EVERY:
            return
        self.looked = now
        self._measure(self.current)
        if self.redraws:
            self._draw()
        elif now - self.printed >= PLAIN_EVERY:
            self.printed = now
            self._line(self.current)

    def end(self, run: Run, state: str) -> None:
        """A run is over."""
        self._measure(run)
        self.current = None
        self._now(run, state)

    def close(self) -> None:
        """Nothing more comes."""
        sys.stdout.flush()

    def rows(self) -> list[tuple[str, ...]]:
        """The table without its head."""
        return [self._row(run) for run in self.runs]

    def _measure(self, run: Run) -> None:
        self.made[run.hash] = run.made()
        since = time.perf_counter() - self.began
        self.speed[run.hash] = (self.made[run.hash] - self.before) / since if since > 0 else 0.0

    def _now(self, run: Run, state: str) -> None:
        self.states[run.hash] = state
        if self.redraws:
            self._draw()
        else:
            self._line(run)

    def _row(self, run: Run) -> tuple[str, ...]:
        made, speed, state = self.made[run.hash], self.speed.get(run.hash, 0.0), self.states[run.hash]
        left = (run.asked - made) / speed if state == "running" and speed > 0 else None
        return (
            printable(run.point.label),
            state,
            f"{made:.1f} of {run.asked:.1f} s" if run.unit == "s" else f"{made:g} of {run.asked:g} {run.unit}",
            f"{speed * run.fps:.1f}" if speed > 0 and run.fps else "-",
            "-" if left is None else _clock(left),
        )

    def _line(self, run: Run) -> None:
        label, state, made, speed, left = self._row(run)
        rest = "".join([f", {speed} FPS"] * (speed != "-") + [f", {left} left"] * (left != "-"))
        sys.stdout.write(printable(f"{label}: {state}, {made}{rest} ({run.folder})\n"))
        sys.stdout.flush()

    def _draw(self) -> None:
        rows = [HEAD, *self.rows()]
        widths = [max(len(row[n]) for row in rows) for n in range(len(HEAD))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        size = shutil.get_terminal_size()
        shown = lines[: max(2, size.lines - 2)]
        back = UP.format(self.lines) if self.lines else ""
        sys.stdout.write(back + "".join(f"{line[: size.columns - 1].rstrip()}{CLEAR}\n" for line in shown))
        sys.stdout.flush()
        self.lines = len(shown)


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
