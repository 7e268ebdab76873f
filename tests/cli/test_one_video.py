"""Videos that two processes make together, in two groups of a run of four: killed, resumed and compared."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import LONGER

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
