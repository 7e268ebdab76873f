"""Faults from outside: what is said, with which exit code, and what remains."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

DEAD_ENCODER = """
import av
from rollforge.video.encoder import Encoder
real = Encoder.add
def add(self, image, number):
    if number == 40:
        raise av.error.ExternalError(1, "Generic error in an external library")
    real(self, image, number)
Encoder.add = add
"""
NO_MEMORY = """
from rollforge.rollout.passes import PassRunner
real = PassRunner.run
def run(self, request, frontier):
    if request.step.index == 12:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
    return real(self, request, frontier)
PassRunner.run = run
"""
NO_STATE = """
from rollforge.policies import RollingSink
RollingSink.on_commit = lambda self, step: setattr(self, "odd", object())
"""
LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
ROOM = 9_000_000  # bytes of a small disk
Whole = Callable[[Any], Any]


def sentence(printed: str) -> str:
    (found,) = [line for line in printed.splitlines() if line.startswith("rollforge: ")]
    return found


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, so small that it fills up."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        reason = mounted.stderr.strip()
    except OSError as error:
        reason = str(error)
    if not os.path.ismount(folder):
        pytest.skip(f"no tmpfs can be mounted here: {reason}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_video_that_the_disk_does_not_take_ends_the_run_and_goes_on_when_there_is_room(
    case: Any, whole: Whole
) -> None:
    """With a limit on the size of a file, which every system has."""
    case.pixels = 384  # files as large as they commonly are
    case.config["data"]["seconds"] = 48 / 8
    case.config["snapshots"]["kv"] = "recompute"
    size = sum(path.stat().st_size for path in whole(case).out.glob("*.mp4"))
    printed = case.run(code=2, before=LIMITED.format(size=size * 2 // 3))
    assert str(case.partial) in sentence(printed)
    assert "File too large" in sentence(printed)
    assert case.count(case.partial) >= 3 * case.number() - 12 > 0
    assert not case.digests()
    case.run("--resume")
    assert case.digests() == whole(case).digests()


def test_a_snapshot_that_the_disk_does_not_take_is_said_and_the_video_is_finished(case: Any, whole: Whole) -> None:
    case.pixels = 384  # files as large as they commonly are
    case.config["model"]["backbone"]["init_args"] = {"weights": "pocket"}
    case.config["snapshots"]["every_blocks"] = 4
    case.config["data"]["seconds"] = 27 / 8
    size = sum(path.stat().st_size for path in whole(case).out.glob("*.mp4"))
    printed = case.run(before=LIMITED.format(size=size + 20_000))
    assert printed.count("No snapshot was made") == 2
    assert "File too large" in printed
    assert case.digests() == whole(case).digests()
    assert not (case.out / "snapshots").exists()


def test_a_full_disk_stops_the_video_but_not_its_snapshots(case: Any, whole: Whole, disk: Path) -> None:
    case.pixels = 384  # files as large as they commonly are
    case.config["data"]["seconds"] = 48 / 8
    case.config["snapshots"]["kv"] = "recompute"
    case.out.parent.mkdir(exist_ok=True)
    disk.joinpath("out").mkdir()
    case.out.symlink_to(disk / "out")
    filler = disk / "filler"
    filler.write_bytes(bytes(ROOM - 700_000))
    printed = case.run(code=2)
    assert "No space left on device" in sentence(printed)
    assert case.count(case.partial) >= 3 * case.number() - 12
    filler.unlink()
    case.run("--resume")
    assert case.digests() == whole(case).digests()


def test_a_folder_that_is_removed_ends_the_run_in_a_sentence(case: Any) -> None:
    case.config["model"]["metrics"] = [{"class_path": "WorldTruth"}]
    process = case.start()
    assert process.until(lambda: case.number() >= 2)
    case.out.rename(case.folder / "elsewhere")
    assert process.wait() == 2, process.printed
    assert "Traceback" not in process.printed
    assert str(case.out) in sentence(process.printed)


@pytest.mark.parametrize(
    ("before", "expected"), [(DEAD_ENCODER, "failed after 40 frames"), (NO_MEMORY, "memory")], ids=["encoder", "memory"]
)
def test_the_death_of_the_encoder_or_of_memory_ends_the_run_which_then_goes_on(
    case: Any, whole: Whole, before: str, expected: str
) -> None:
    assert expected in sentence(case.run(code=2, before=before))
    assert case.count(case.partial) >= 24
    assert case.number() == 12
    case.run("--resume")
    assert case.digests() == whole(case).digests()


def test_a_part_that_cannot_be_saved_costs_the_snapshots_and_not_the_video(case: Any, whole: Whole) -> None:
    printed = case.run(before=NO_STATE)
    assert "RollingSink cannot be saved: its attribute odd (object)" in printed
    assert case.digests() == whole(case).digests()
