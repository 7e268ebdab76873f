"""An untrusted folder, with modules and settings by the names of libraries, as the current folder of every process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rollforge.isolation import safe_environment

MODULE = "import pathlib; pathlib.Path({mark!r}).touch()\nraise ImportError\n"


@pytest.fixture
def untrusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder. A pipe as ``matplotlibrc`` makes a reader wait for ever."""
    for name in ("pluggy", "av", "yaml", "rich", "colorsys", "argparse"):
        (tmp_path / f"{name}.py").write_text(MODULE.format(mark=str(tmp_path / f"imported-{name}")))
    os.mkfifo(tmp_path / "matplotlibrc")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def imported(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("imported-*")]


def test_modules_and_settings_of_the_current_folder_are_left_alone(untrusted: Path) -> None:
    line = [sys.executable, "-m", "rollforge", "plugins", "show", "Window"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, imported(untrusted)) == (0, []), done.stderr


def test_child_processes_leave_them_alone(untrusted: Path) -> None:
    line = [sys.executable, "-c", "import colorsys"]
    environment = {**os.environ, "PYTHONSAFEPATH": ""}
    assert subprocess.run(line, env=environment, capture_output=True, check=False).returncode == 1
    assert imported(untrusted) == ["imported-colorsys"]  # so much for what Python does by itself
    (untrusted / "imported-colorsys").unlink()
    assert subprocess.run(line, env={**os.environ, **safe_environment()}, check=False).returncode == 0
    assert imported(untrusted) == []
