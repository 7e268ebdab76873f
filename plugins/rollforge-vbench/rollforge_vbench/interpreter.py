"""Runs the driver in VBench's interpreter and brings its result back, or one sentence on why there is none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollforge.errors import UserError
from rollforge.files.writing import open_new
from rollforge_vbench.job import Job
from rollforge_vbench.prepare import LENGTHS, VIDEOS

DRIVER = Path(__file__).with_name("driver.py")
OURS = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")  # not for the other one


@dataclass(frozen=True)
class Interpreter:
    """Another Python, with vbench in it.

    Args:
        python: its executable.
        repo: a checkout of VBench to import from; what is installed there where None.
        full_info: VBench's list of prompts; the one next to the package where None.
        local: VBench's ``load_ckpt_from_local``.
        hours: how long a scoring may take.
    """

    python: str
    repo: Path | None = None
    full_info: Path | None = None
    local: bool = False
    hours: float = 24.0

    def run(self, job: Job, prepared: dict[str, Any], folder: Path, log: Path) -> dict[str, Any]:
        """The driver's result, which may hold an error of VBench's.

        Raises:
            UserError: where the interpreter cannot be started, takes too long or leaves no result.
        """
        folder = folder.resolve()
        result = folder / "result.json"
        (folder / "output").mkdir()
        (folder / "job.json").write_text(json.dumps(self._job(job, prepared, folder)))
        line = [self.python, str(DRIVER), str(folder / "job.json"), str(result)]
        code = self._wait(line, folder, log)
        try:
            return _shape(json.loads(result.read_text()))
        except FileNotFoundError:
            ended = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise UserError(
                f"VBench's interpreter {ended} and left no result (its last words: {_last(log)}); see {log}."
            ) from None
        except ValueError as error:
            raise UserError(f"VBench's interpreter left a result that cannot be read ({error}); see {log}.") from error

    def _job(self, job: Job, prepared: dict[str, Any], folder: Path) -> dict[str, Any]:
        prompts = {video["file"]: video["prompt"] for video in prepared["videos"]}
        return {
            "videos": str(folder / VIDEOS),
            "output": str(folder / "output"),
            "dimensions": job.dimensions,
            "mode": job.vbench_mode,
            "long": job.long,
            "long_range": job.long_range,
            "static_filter": job.static_filter and job.mode == "standard",
            "clip_lengths": str(folder / LENGTHS) if job.clip_seconds else None,
            "samples": max(Counter(prompts.values()).values()),
            "prompts": prompts,
            "device": job.device,
            "local": self.local,
            "full_info": str(self.full_info.resolve()) if self.full_info else None,
        }

    def _wait(self, line: list[str], folder: Path, log: Path) -> int:
        """Runs a process group to its end, or ends it."""
        environment = {name: value for name, value in os.environ.items() if name not in OURS}
        if self.repo:
            environment["PYTHONPATH"] = str(self.repo.resolve())
        with open_new(log) as file:
            try:
                process = subprocess.Popen(
                    line, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise UserError(
                    f"--vbench.python {self.python} cannot be started ({error.strerror}); name the python of an "
                    "environment in which vbench is installed."
                ) from error
            try:
                return process.wait(timeout=self.hours * 3600)
            except subprocess.TimeoutExpired as error:
                raise UserError(
                    f"VBench took longer than {self.hours:g} hours and was ended; allow more by --vbench.hours, or "
                    f"see {log}."
                ) from error
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


def _shape(result: Any) -> dict[str, Any]:
    """The result, if it looks like the driver's."""
    if not isinstance(result, dict) or not isinstance(result.get("dimensions"), dict):
        raise ValueError("not what the driver writes")
    return result


def _last(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(errors="replace")[-4000:].splitlines() if line.strip()]
    return lines[-1][:200] if lines else "none"
