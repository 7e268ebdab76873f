"""The check of a card, run on the CPU at toy size, so that it stays true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small import one_thread  # noqa: F401 - a fixture is used by being here

from rollforge.cli import main
from rollforge.gpu import correctness, speed
from rollforge.gpu.models import Setup
from rollforge.gpu.report import Recorder, Row, read_rows, table
from rollforge.gpu.stages import run_stages
from rollforge.gpu.timing import Clock, TimedSampler
from rollforge.registry import registry
from rollforge.samplers import FewStep
from rollforge.samplers.base import Job
from rollforge.spec import Step

ROOT = Path(__file__).parents[2]
OPTIONAL = ("av", "decord", "jsonargparse", "diffusers", "transformers", "cv2", "PIL", "matplotlib", "filelock", "ftfy")
BLOCK = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.partition(".")[0])
sys.meta_path.insert(0, Absent())
"""


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., list[Row]]:
    """Runs one stage in this process, on the CPU."""

    def run(stage: Callable[[Setup, Recorder], None]) -> list[Row]:
        file = tmp_path / f"{stage.__name__}.jsonl"
        with torch.no_grad():
            stage(Setup("cpu", full=False), Recorder(stage.__name__, file))
        return read_rows(file)

    return run


def test_every_registered_part_of_a_rollout_is_checked(rows: Callable[..., list[Row]]) -> None:
    found = {row.what: row for row in rows(correctness.rollouts)}
    for kind in ("cache", "sampler", "noise", "positions", "kv_codec"):
        for part in registry().of(kind):
            assert f"{kind} {part.name}" in found
    assert [row.what for row in found.values() if row.ok is None] == ["noise FixedNoise"]
    assert all(row.ok for row in found.values() if row.ok is not None), table(found.values())


@pytest.mark.parametrize("stage", [correctness.memories, correctness.resume])
def test_training_passes_and_resume_are_checked(
    stage: Callable[[Setup, Recorder], None], rows: Callable[..., list[Row]]
) -> None:
    found = rows(stage)
    assert len(found) == 6
    assert all(row.ok for row in found), table(found)


def test_a_wrong_device_fails_the_check(rows: Callable[..., list[Row]], monkeypatch: pytest.MonkeyPatch) -> None:
    right = correctness.toy

    def wrong() -> torch.nn.Module:
        network = right()
        network.register_forward_hook(lambda module, given, flow: flow if flow.dtype is torch.float64 else flow * 1.01)
        return network

    monkeypatch.setattr(correctness, "toy", wrong)
    found = rows(correctness.memories)
    assert [row.what for row in found if not row.ok] == [row.what for row in found]


def test_the_machine_is_named_and_the_network_alone_is_timed(rows: Callable[..., list[Row]]) -> None:
    (machine,) = rows(speed.machine)
    assert (machine.what, machine.values) == ("cpu", {"torch": torch.__version__})
    timed = rows(speed.network)
    assert [row.what.split(", ")[2] for row in timed] == ["Window", "RollingSink"]
    assert all(0 < row.values["denoise ms"] < row.values["block ms"] for row in timed), table(timed)


def test_the_command_runs_without_optional_packages_and_names_them(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    line = [sys.executable, "-m", "rollforge", "gpu", "--device", "cpu", "--toy", "--output_dir", "out"]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [*line, "--only", "pipeline"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = {row["what"]: row["values"] for row in json.loads((tmp_path / "out" / "gpu.json").read_text())["rows"]}
    assert "diffusers" in found["whole loop, WanVAE"]["skipped"]
    assert found["encoding"] == {"skipped": "needs the package av"}
    loop = found["whole loop, eager, TinyWanDecoder, RollingSink, toy, float32"]
    assert {"denoise ms", "commit ms", "decode ms", "first block ms", "block ms", "FPS"} <= loop.keys()
    assert "whole loop, eager, TinyWanDecoder" in done.stdout


def test_a_stage_that_takes_too_long_is_ended_and_fails() -> None:
    ((row,),) = run_stages(["rollouts"], "cpu", False, seconds=3.2, report=lambda text: None)
    assert row.ok is False
    assert row.values == {"error": "did not end within 1 s"}


def test_stages_after_the_limit_are_not_run() -> None:
    ((row,),) = run_stages(["rollouts"], "cpu", False, seconds=0, report=lambda text: None)
    assert row.values == {"skipped": "all stages together have 0 s"}


def test_cuda_is_refused_in_one_sentence_where_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert main(["gpu", "--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_make_gpu_installs_nothing() -> None:
    line = ["make", "-n", "-C", str(ROOT), "gpu", "PYTHON=any-python"]
    commands = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert "any-python -m rollforge gpu" in commands
    assert "pip" not in commands
    assert "venv" not in commands


def test_a_timed_sampler_asks_for_the_same_passes() -> None:
    noise = torch.randn(1, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    found = []
    clock = Clock("cpu")
    for sampler in (FewStep(), TimedSampler(FewStep(), clock)):
        passes = sampler.run(Job([Step.of(0, 3)], lambda step, level: noise * (level + 1)))
        requests = [next(passes)]
        while True:
            try:
                sent = getattr(requests[-1], "timestep", None)
                requests.append(next(passes) if sent is None else passes.send(requests[-1].latents * 0.1))
            except StopIteration:
                break
        found.append([(request.step, request.latents.sum().item()) for request in requests])
    assert found[0] == found[1]
    assert clock.take().keys() == {"denoise", "commit"}
