"""The three lines of the README make and save a video, which a notebook shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from IPython.core.formatters import DisplayFormatter

from rollforge.video.reader import probe

ROOT = Path(__file__).parents[2]


def three_lines() -> str:
    """The code of the README, for a short video."""
    text = (ROOT / "README.md").read_text()
    code = re.search(r"## From Python\n\n(?:<!---.*?-->\n\n)?```python\n(.*?)```", text, re.DOTALL)
    assert code
    assert len([line for line in code[1].splitlines() if line]) == 3
    assert "seconds=10" in code[1]
    return code[1].replace("seconds=10", "seconds=1").replace('"configs/', f'"{ROOT}/configs/')


def test_three_lines_make_and_save_a_video_that_a_notebook_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(three_lines(), names)
    assert probe(tmp_path / "ball.mp4").frames == 8
    shown, _ = DisplayFormatter().format(names["clips"])  # as a kernel does with the last line of a cell
    assert 'src="data:video/mp4;base64,' in shown["text/html"]
    assert "Clip(" in shown["text/plain"]
