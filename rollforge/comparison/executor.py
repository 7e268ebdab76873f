"""Runs points one after the other, each in a process of its own, so that the end of one is not the end of all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, BinaryIO

import torch

from rollforge.comparison.progress import Progress
from rollforge.comparison.runs import Run
from rollforge.errors import UserError
from rollforge.files.writing import open_new, open_own
from rollforge.isolation import safe_environment
from rollforge.snapshots.identity import versions

PAUSE = 0.2  # seconds between two looks at the process
HEARD = (signal.SIGINT, signal.SIGTERM)
BAR_EVERY = "15"  # seconds between two states of the bar, which goes to a file
PROGRAM = (sys.executable, "-m", "rollforge")


class RunExecutor:
    """Runs what is not complete yet.

    Args:
        runs: all runs, trainings before the runs that use their weights.
        program: what runs ``rollforge``.
    """

    def __init__(self, runs: Sequence[Run], program: Sequence[str] = PROGRAM) -> None:
        self.runs, self.program = runs, program
        self.asked: signal.Signals | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def all(self) -> None:
        """Every run that is not finished; one that fails is noted in ``Run.failure``.

        Raises:
            SystemExit: after SIGINT or SIGTERM, once the current run has saved its state.
        """
        progress = Progress(self.runs)
        former = {each: signal.signal(each, self._on_signal) for each in HEARD}
        try:
            for run in self.runs:
                if run.training is not None and run.training.failure:
                    run.failure = f"its training failed: {run.training.failure}"
                elif not run.finished:
                    self._make(run, progress)
        finally:
            for each, handler in former.items():
                signal.signal(each, handler)
            progress.close()

    def _make(self, run: Run, progress: Progress) -> None:
        run.note(versions=versions(_device(run)), command_line=run.command)
        progress.start(run)
        began = time.perf_counter()
        going_on = ["--resume"] if run.started else []
        with _log(run) as log:
            log.write(f"\n$ rollforge {' '.join([*run.command, *going_on])}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                [*self.program, *run.command, *going_on],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, **safe_environment(), "TQDM_MININTERVAL": BAR_EVERY},
                start_new_session=True,  # signals reach it once, from here
            )  # fmt: skip
            code, peak = self._await(progress)
            self.process = None
        former = run.record
        run.note(
            wall_seconds=round(float(former.get("wall_seconds") or 0) + time.perf_counter() - began, 3),
            peak_memory_mib=max(float(former.get("peak_memory_mib") or 0), round(peak / 1024, 1)),
        )
        if self.asked:
            progress.end(run, "stopped")
            raise SystemExit(128 + self.asked)
        if not run.finished:
            run.failure = _why(run, code)
        progress.end(run, "failed" if run.failure else "done")

    def _await(self, progress: Progress) -> tuple[int, int]:
        """The exit code of the process, negative for a signal, and its largest memory in KiB."""
        assert self.process is not None
        while True:
            number, status, used = os.wait4(self.process.pid, os.WNOHANG)
            if number:
                code = os.waitstatus_to_exitcode(status)
                self.process.returncode = code
                return code, used.ru_maxrss
            progress.look()
            time.sleep(PAUSE)

    def _on_signal(self, number: int, frame: FrameType | None) -> Any:
        """Passes a signal on. The current run finishes its block and saves; a second signal ends it at once."""
        self.asked = self.asked or signal.Signals(number)
        if self.process is None:
            raise SystemExit(128 + number)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def _log(run: Run) -> BinaryIO:
    """The log of a run, to append to. Raises ``UserError`` where it cannot be written, and for a link."""
    path = run.folder / run.log
    try:
        return open_own(path, append=True) if os.path.lexists(path) else open_new(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another --output_dir.") from error


def _device(run: Run) -> torch.device:
    """What the model of a run will be on."""
    asked = str((run.config.get("trainer") or {}).get("accelerator") or "auto")
    return torch.device("cuda" if asked in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu")


def _why(run: Run, code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"it was ended by {name}{', as the system does when memory runs out' if name == 'SIGKILL' else ''}."
    if not code:
        return "it ended well, but left not all of its files."
    return run.sentence()
