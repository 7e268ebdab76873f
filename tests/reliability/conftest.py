"""Runs of ``rollforge predict`` that can be killed at a chosen moment, and what they leave."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import forks
import pytest
import yaml
from forks import Forks
from small import LONGER

from rollforge.errors import UserError
from rollforge.video.reader import frames

RED = "a red ball over snow at day"
TWO = "a green cone and a blue box over sand at night"
FRAMES = 84  # 28 blocks
PATIENCE = 300  # seconds until a process that does not do what is waited for fails the test
MODEL = LONGER
DATA: dict[str, Any] = {"prompts": [RED], "seconds": FRAMES / 8}
SNAPSHOTS: dict[str, Any] = {"every_blocks": 2}


@dataclass
class Process:
    """A command in progress."""

    forked: forks.Process
    log: Path

    @property
    def code(self) -> int | None:
        """Its exit code, minus the signal that killed it, or None while it runs."""
        return self.forked.poll()

    @property
    def printed(self) -> str:
        """All that it has printed so far, without carriage returns."""
        return self.log.read_text().replace("\r", "\n") if self.log.exists() else ""

    def wait(self) -> int:
        """Its exit code; minus the signal that killed it."""
        return self.forked.wait()

    def send(self, number: signal.Signals) -> None:
        self.forked.send_signal(number)

    def until(self, true: Callable[[], Any], pause: float = 0.01) -> bool:
        """Waits for something to be true; False where the process ends before."""
        deadline = time.monotonic() + PATIENCE
        while not true():
            if self.code is not None:
                return bool(true())
            assert time.monotonic() < deadline, self.printed
            time.sleep(pause)
        return True


@dataclass
class Case:
    """A config in a folder of its own; change ``config`` before ``run``."""

    forks: Forks
    folder: Path
    config: dict[str, Any] = field(
        default_factory=lambda: {
            "model": deepcopy(MODEL), "data": deepcopy(DATA), "snapshots": deepcopy(SNAPSHOTS),
        }
    )  # fmt: skip
    runs: int = 0
    seconds: float = 0.0  # that the last run took
    command: str = "predict"
    pixels: int = 64  # not enlarged, as it is by default: encoding would take longer than all else

    @property
    def out(self) -> Path:
        """The run folder."""
        return self.folder / "out"

    @property
    def partial(self) -> Path | None:
        """The first unfinished video."""
        return next(iter(sorted(self.out.glob("*.partial.mp4"))), None)

    def arguments(self, *more: str) -> list[str]:
        self.folder.mkdir(exist_ok=True)
        path = self.folder / "case.yaml"
        path.write_text(yaml.safe_dump(self.config))
        return [self.command, "--config", str(path), "--output_dir", str(self.out), *more]

    def start(self, *more: str, before: str = "", environment: dict[str, str] | None = None) -> Process:
        """The command in a process of its own, with more in its environment, and code that is run before it."""
        self.runs += 1
        arguments, log = self.arguments(*more), self.folder / f"log-{self.runs}.txt"
        before = f"from rollforge.video import writer; writer.SMALL = {self.pixels}\n{before}"
        env = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        return Process(self.forks.log(log, "-m", "rollforge", *arguments, env=env, before=before), log)

    def run(self, *more: str, code: int = 0, **how: Any) -> str:
        """Runs to the end; gives all that was printed."""
        began = time.monotonic()
        process = self.start(*more, **how)
        assert process.wait() == code, process.printed
        self.seconds = time.monotonic() - began
        assert "Traceback" not in process.printed, process.printed
        return process.printed

    def snapshots(self) -> list[Path]:
        return sorted(self.out.glob("snapshots/*/snapshot-*.safetensors"))

    def number(self) -> int:
        """Blocks that the newest snapshot has."""
        return max((int(path.stem[-6:]) for path in self.snapshots()), default=0)

    def killed_after(self, blocks: int, *more: str, number: signal.Signals = signal.SIGKILL, **how: Any) -> Process:
        """A run that is killed once it has a snapshot of so many blocks or more."""
        process = self.start(*more, **how)
        assert process.until(lambda: self.number() >= blocks), process.printed
        process.send(number)
        process.wait()
        return process

    def digests(self) -> dict[str, str]:
        """Of the frames of every finished video."""
        names = sorted(path for path in self.out.glob("*.mp4") if not path.name.endswith(".partial.mp4"))
        return {path.name: digest(path) for path in names}

    @staticmethod
    def count(path: Path) -> int:
        """Frames that a player can show; the end of the file may be cut off."""
        shown = 0
        with suppress(UserError):
            for _ in frames(path):
                shown += 1
        return shown

    def manifest(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads((self.out / "manifest.json").read_text())
        return read


def digest(path: Path) -> str:
    """Of the decoded frames of a video and their number."""
    hasher, count = sha256(), 0
    for frame in frames(path):
        hasher.update(frame.tobytes())
        count += 1
    return f"{count} {hasher.hexdigest()}"


@pytest.fixture
def case(forks: Forks, tmp_path: Path) -> Case:
    """A small config."""
    return Case(forks, tmp_path / "case")


@pytest.fixture(scope="session")
def whole(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Case]:
    """The uninterrupted run of a case's config, made once for each config."""
    made: dict[str, Case] = {}

    def run(case: Case) -> Case:
        kept = {"every_seconds": None, "latents": case.config["snapshots"].get("latents", False)}
        parts = case.config | {"snapshots": kept}
        key = json.dumps([parts, case.pixels], sort_keys=True)
        if key not in made:
            made[key] = Case(forks, tmp_path_factory.mktemp("whole") / "case", deepcopy(parts), pixels=case.pixels)
            made[key].run()
        return made[key]

    return run


@pytest.fixture
def another(forks: Forks, tmp_path: Path) -> Callable[[str], Case]:
    """Small configs by name."""
    return lambda name: Case(forks, tmp_path / name)
