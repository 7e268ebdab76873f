"""The result of a check, as one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from rollforge.errors import UserError

Status = Literal["ok", "warning", "unknown", "problem"]
Report = Callable[[str], object]


@dataclass(frozen=True)
class Finding:
    """A status of one subject, and a sentence; ``more`` is a table to show below it."""

    status: Status
    subject: str
    sentence: str
    more: str = ""

    def __str__(self) -> str:
        return f"{self.status:8} {self.subject:13} {self.sentence}" + (f"\n{self.more}" if self.more else "")


class Findings(list[Finding]):
    """Findings, each reported as it is added."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report

    def add(self, status: Status, subject: str, sentence: str, more: str = "") -> None:
        """Adds and reports one."""
        self.append(Finding(status, subject, sentence, more))
        self.report(f"{self[-1]}\n")

    @contextmanager
    def problem_at(self, subject: str, status: Status = "problem") -> Iterator[None]:
        """Reports any exception inside as a problem of ``subject``, or a warning. Interrupts pass."""
        try:
            yield
        except UserError as error:
            self.add(status, subject, str(error))
        except (Exception, SystemExit) as error:  # components of anyone
            first = (str(error).strip() or "no reason given").splitlines()[0]
            self.add(status, subject, f"{type(error).__name__}: {first}")

    @property
    def problems(self) -> int:
        """Number of problems."""
        return sum(finding.status == "problem" for finding in self)
