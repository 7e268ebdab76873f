"""Prints how long each tutorial took."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    took = {report.nodeid: report.duration for report in reports if report.when == "call"}
    for name, seconds in sorted(took.items()):
        if "test_tutorials.py" in name:
            terminalreporter.write_line(f"{seconds:6.1f} s  {name.split('[')[-1].rstrip(']')}")
