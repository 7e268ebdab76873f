"""A model so small that the whole command runs in a second, and the command itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from forks import EVERYWHERE, Captured, Forks
from small import MODEL, not_enlarged, one_thread  # noqa: F401 - a fixture is used by being here

from rollforge.cli import main

NOT_ENLARGED = "from rollforge.video import writer; writer.SMALL = 1"
RED = "a red ball over snow at day"
TWO = "a green cone and a blue box over sand at night"


@dataclass
class Tiny:
    """A tiny config in a folder of its own; change ``config`` before ``run``."""

    folder: Path
    config: dict[str, Any] = field(
        default_factory=lambda: {"model": deepcopy(MODEL), "data": {"prompts": [RED], "seconds": 3}}
    )
    forks: Forks | None = None

    @property
    def out(self) -> Path:
        """The run folder."""
        return self.folder / "out"

    def write(self, name: str = "tiny.yaml") -> Path:
        """The config as a file."""
        path = self.folder / name
        path.write_text(yaml.safe_dump(self.config))
        return path

    def arguments(self, command: str, *more: str) -> list[str]:
        """A command line with the config and the run folder."""
        return [command, "--config", str(self.write()), "--output_dir", str(self.out), *more]

    def run(self, command: str, *more: str) -> int:
        """The exit code of a command."""
        return main(self.arguments(command, *more))

    def start(self, command: str, *more: str) -> Captured:
        """The command as a process of its own, forked where everything is imported."""
        assert self.forks is not None
        how: dict[str, Any] = {"env": environment(**{EVERYWHERE: NOT_ENLARGED}), "before": NOT_ENLARGED}
        return self.forks.start("-m", "rollforge", *self.arguments(command, *more), cwd=self.folder, **how)

    def videos(self) -> list[str]:
        """Names of everything that looks like a finished video."""
        return sorted(path.name for path in self.out.glob("*.mp4") if not path.name.endswith(".partial.mp4"))


def environment(**more: str) -> dict[str, str]:
    """The environment of a process on one core."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


@pytest.fixture
def enlarged(monkeypatch: pytest.MonkeyPatch, not_enlarged: None) -> None:  # noqa: F811
    """Videos as a user gets them."""
    monkeypatch.setattr("rollforge.video.writer.SMALL", 384)


@pytest.fixture
def tiny(tmp_path: Path, forks: Forks) -> Tiny:
    """The tiny config."""
    return Tiny(tmp_path, forks=forks)


@pytest.fixture
def error_line(capsys: pytest.CaptureFixture[str]) -> Callable[[int], str]:
    """Checks that a command ended in one sentence and nothing else; gives the sentence."""

    def check(code: int) -> str:
        stderr = capsys.readouterr().err
        assert code == 2, stderr
        lines = stderr.strip().splitlines()
        assert len(lines) == 1, stderr
        assert lines[0].startswith("rollforge: ")
        assert "Traceback" not in stderr
        return lines[0]

    return check


@pytest.fixture
def process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs python with arguments to its end."""

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, *arguments]
        return subprocess.run(line, env=environment(**env), capture_output=True, text=True, timeout=600, check=False)

    return run
