"""What is printed at the end of a test session about the pages of the docs."""

from __future__ import annotations

import pytest

TUTORIALS = "tests/docs/test_tutorials.py::"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints how long each tutorial took, and which blocks of docs pages were not run.

    A hook of ``tests/conftest.py``: with several processes no conftest further down is read by the one that prints.
    """
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    took = {report.nodeid: report.duration for report in reports if report.when == "call"}
    tutorials = {name: seconds for name, seconds in took.items() if name.startswith(TUTORIALS)}
    for name, seconds in sorted(tutorials.items()):
        terminalreporter.write_line(f"{seconds:6.1f} s  {name.split('[')[-1].rstrip(']')}")
    if tutorials:
        total = sum(tutorials.values())
        workers = getattr(terminalreporter.config.option, "numprocesses", None) or 1
        together = f", {total / workers:.1f} s on {workers} workers" if workers > 1 else ""
        terminalreporter.write_line(f"{total:6.1f} s  all tutorials{together}")
    skipped = sorted(text for report in reports for name, text in report.user_properties if name == "not run")
    for text in skipped:
        terminalreporter.write_line(f"not run: {text}")
