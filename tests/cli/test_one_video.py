"""Videos that two processes make together, in two groups of a run of four: killed, resumed and compared."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from small import LONGER

from rollforge.commands.ranks import Ranks
from rollforge.video.reader import frames

HELPERS = Path(__file__).parents[1] / "helpers"
PROMPTS = ["a red ball over snow at day", "a blue box over snow at night"]


def decoded(path: Path) -> Any:
    return np.stack(list(frames(path)))


def test_groups_of_processes_are_killed_and_resume_with_the_same_bits(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HELPERS))
    tiny.config = {
        "model": LONGER, "data": {"prompts": PROMPTS, "seconds": 3}, "snapshots": {"every_blocks": 1},
        "trainer": {"accelerator": "cpu", "devices": 4},
    }  # fmt: skip
    together = "--model.context_parallel", "2"
    running = tiny.start("predict", *together)
    stored = tiny.out / "snapshots"
    names = [f"{n:03d}-{prompt.replace(' ', '-')}" for n, prompt in enumerate(PROMPTS)]
    while not all(any((stored / name).glob("snapshot-00000[3-9].*")) for name in names):
        time.sleep(0.02)
        assert running.poll() is None, running.communicate()[1]
    running.terminate()
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 143, errors
    assert len(list(stored.glob("*/process-1/snapshot-*"))) >= 4
    resumed = tiny.start("predict", *together, "--resume")
    _, errors = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, errors
    assert not stored.exists()

    kept, tiny.config["trainer"] = tiny.out, {"accelerator": "cpu", "devices": 2}
    steady = tiny.start("predict", *together, "--output_dir", str(tiny.folder / "whole"))
    _, errors = steady.communicate(timeout=120)
    assert steady.returncode == 0, errors
    tiny.config["trainer"] = {"accelerator": "cpu"}
    assert tiny.run("predict", "--output_dir", str(tiny.folder / "alone")) == 0
    folders = kept, tiny.folder / "whole", tiny.folder / "alone"
    for name in names:
        made, whole, alone = (decoded(folder / f"{name}.mp4") for folder in folders)
        assert np.array_equal(made, whole)
        assert np.abs(made.astype(int) - alone).max() <= 2


def test_rank_0_is_not_killed_for_the_end_of_a_process_that_it_ends_itself() -> None:
    one, rank_0 = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
    ranks, launcher = Ranks(), SimpleNamespace(procs=[one])
    ranks.launcher = launcher
    observer = _ChildProcessObserver(main_pid=rank_0.pid, child_processes=launcher.procs, sleep_period=0)
    try:
        ranks._end_children()
        assert one.wait(10) == -signal.SIGKILL
        assert observer._run()
        with pytest.raises(subprocess.TimeoutExpired):
            rank_0.wait(0.5)
    finally:
        rank_0.kill()
