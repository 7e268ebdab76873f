"""Prints how long each tutorial took, and which blocks of docs pages were not run."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    took = {report.nodeid: report.duration for report in reports if report.when == "call"}
    for name, seconds in sorted(took.items()):
        if "test_tutorials.py" in name:
            terminalreporter.write_line(f"{seconds:6.1f} s  {name.split('[')[-1].rstrip(']')}")
    skipped = sorted(text for report in reports for name, text in report.user_properties if name == "not run")
    for text in skipped:
        terminalreporter.write_line(f"not run: {text}")
