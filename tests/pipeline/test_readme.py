"""The three lines of the README make and save a video, and show it in a notebook."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

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


def test_three_lines_make_and_save_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(three_lines(), {})
    assert probe(tmp_path / "ball.mp4").frames == 8


def test_a_notebook_shows_the_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(f"{three_lines()}clips")])
    resources = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources)
    client.create_kernel_manager().kernel_spec.argv[0] = sys.executable  # the very Python of this test
    client.execute()
    shown = [output for output in notebook.cells[0].outputs if output.output_type == "execute_result"]
    assert [output.output_type for output in notebook.cells[0].outputs if output.output_type == "error"] == []
    assert 'src="data:video/mp4;base64,' in shown[0].data["text/html"]
    assert "Clip(" in shown[0].data["text/plain"]
    assert (tmp_path / "ball.mp4").is_file()
