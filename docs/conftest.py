"""Runs the code of the pages as tests, each page in a clean folder: ``make docs-test``, and ``make docs-refresh``."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from sybil import Sybil
from sybil.parsers.markdown import SkipParser

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

from page_blocks import parse  # noqa: E402
from page_pictures import parse_pictures  # noqa: E402


def _enter(namespace: dict[str, Any]) -> None:
    """Makes the folder of a page: empty but for the configs of the repository."""
    folder = Path(tempfile.mkdtemp(prefix="rollforge-page-"))
    (folder / "configs").symlink_to(ROOT / "configs")
    sys.path.insert(0, str(folder))  # as in a notebook
    namespace |= {"__name__": "page", "__folder__": folder}


def _leave(namespace: dict[str, Any]) -> None:
    folder = str(namespace["__folder__"])
    sys.path.remove(folder)
    for name in [name for name, module in sys.modules.items() if str(getattr(module, "__file__", "")).startswith(folder)]:
        del sys.modules[name]
    shutil.rmtree(folder, ignore_errors=True)


pytest_collect_file = Sybil(
    parsers=[parse, SkipParser(), parse_pictures],
    patterns=["tutorials/*.md"],
    setup=_enter,
    teardown=_leave,
).pytest()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints how long each page took."""
    seconds: dict[str, float] = {}
    for report in (each for kind in ("passed", "failed") for each in terminalreporter.stats.get(kind, ())):
        page = report.nodeid.split("::")[0]
        if page.endswith(".md"):
            seconds[page] = seconds.get(page, 0.0) + report.duration
    for page, taken in sorted(seconds.items()):
        terminalreporter.write_line(f"{taken:6.1f} s  {page}")
