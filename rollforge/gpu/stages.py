"""The stages of the check, each in a process of its own under a time limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rollforge.gpu.report import Row, read_rows

GRACE = 2  # seconds for the last stage's child to be counted out


@dataclass(frozen=True)
class Stage:
    """A function ``rollforge.gpu.<module>:<name>`` that is given a ``Setup`` and a ``Recorder``.

    Args:
        seconds: its time limit.
        speed: whether it measures, and needs a card to mean something.
    """

    module: str
    name: str
    seconds: int
    speed: bool = False


STAGES = (
    Stage("speed", "machine", 40),
    Stage("correctness", "rollouts", 110),
    Stage("correctness", "memories", 30),
    Stage("correctness", "resume", 40),
    Stage("correctness", "host_syncs", 30),
    Stage("speed", "network", 50, speed=True),
    Stage("speed", "pipeline", 60, speed=True),
    Stage("speed", "kernels", 60, speed=True),
    Stage("speed", "fused", 30, speed=True),
    Stage("speed", "compiled", 120, speed=True),
)


def run_stages(
    names: Sequence[str], device: str, full: bool, seconds: float, report: Callable[[str], None]
) -> Iterator[list[Row]]:
    """Yields the rows of each stage as it ends. ``seconds`` is the limit for all of them together."""
    deadline = time.monotonic() + seconds
    for stage in STAGES:
        if stage.name not in names:
            continue
        limit = min(stage.seconds, deadline - time.monotonic() - GRACE)
        if limit < 1:
            yield [Row(stage.name, "not run", None, {"skipped": f"all stages together have {seconds:g} s"})]
            continue
        report(f"{stage.name} (at most {limit:.0f} s) ...")
        yield _run(stage, device, full, limit)


def _run(stage: Stage, device: str, full: bool, limit: float) -> list[Row]:
    """One stage in a child, whose whole group is ended at the limit (compilers start processes of their own)."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        line = [sys.executable, "-P", "-m", "rollforge.gpu.child", stage.name, device, str(int(full)), str(file)]
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
        child = subprocess.Popen(
            line, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            _, errors = child.communicate(timeout=limit)
            failed = child.returncode != 0 and (errors.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        except subprocess.TimeoutExpired:
            failed = f"did not end within {limit:.0f} s"
        finally:
            _end(child)
        rows = read_rows(file)
    if failed:
        rows.append(Row(stage.name, "the stage itself", False, {"error": failed[:300]}))
    elif not rows:
        rows.append(Row(stage.name, "the stage itself", False, {"error": "it recorded nothing"}))
    return rows


def _end(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
