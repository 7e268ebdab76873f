"""The first signal lets the block be finished and saved, the second ends all at once; the run goes on either way."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from signal import SIGINT, SIGKILL, SIGTERM, SIGUSR1, Signals
from typing import Any

import pytest

SLURM = {
    "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "rollout", "SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost",
}  # fmt: skip
AGES = 120  # seconds, for which what should be interrupted would go on
SLOW_SAVING = f"""
import time
from rollforge.files import checksummed as sealed
from rollforge.snapshots import store
save, real, numbers = store.SnapshotStore.save, sealed.numbers_of, [0]
def slow(self, number, *about):
    numbers.append(number)
    save(self, number, *about)
def numbers_of(value):
    if numbers[-1] > 4:
        time.sleep({AGES})
    return real(value)
store.SnapshotStore.save, sealed.numbers_of = slow, numbers_of
"""
SLOW_LOADING = f"""
import sys, time
from rollforge.pipeline import Pipeline
def check_weights(self):
    sys.stderr.write("loading")
    sys.stderr.flush()
    time.sleep({AGES})
Pipeline.check_weights = check_weights
"""
SLOW_REPLAY = """
import sys, time
from rollforge.snapshots.latents import LatentStore
real = LatentStore.read
def read(self, stop=None):
    for block in real(self, stop):
        sys.stderr.write("replaying")
        sys.stderr.flush()
        time.sleep(0.5)
        yield block
LatentStore.read = read
"""
SLOW_PAGES = """
import sys, time
from rollforge.video import side_by_side as pages
real = pages._Layout.page
def page(self, *about):
    sys.stderr.write("laying out")
    sys.stderr.flush()
    time.sleep(0.5)
    return real(self, *about)
pages._Layout.page = page
"""
Whole = Callable[[Any], Any]


@pytest.mark.parametrize("number", [SIGINT, SIGTERM, SIGUSR1], ids=lambda number: number.name)
def test_the_first_signal_lets_the_block_be_finished_and_saved(case: Any, whole: Whole, number: Signals) -> None:
    case.config["snapshots"] = {"every_seconds": None}  # only the signal makes one
    process = case.start("--overwrite", "true", environment=SLURM if number == SIGUSR1 else {})
    assert process.until(lambda: case.partial and case.partial.stat().st_size > 5_000)
    process.send(number)
    assert process.wait() == 128 + number, process.printed
    assert "Traceback" not in process.printed
    assert re.search(rf"{number.name}: finishing this block and saving \(about \d+ s\)", process.printed)
    (again,) = re.findall(r"^  rollforge (predict .*)$", process.printed, re.MULTILINE)
    assert again.endswith(" --resume")
    assert "--overwrite" not in again
    assert case.number() > 0
    assert case.count(case.partial) == 3 * case.number()  # the video is closed: nothing of it is lost
    assert not case.digests()
    case.run("--resume")
    assert case.digests() == whole(case).digests()


def test_the_second_signal_ends_all_at_once_and_the_last_snapshot_is_good(case: Any, whole: Whole) -> None:
    process = case.start(before=SLOW_SAVING)
    assert process.until(lambda: case.number() == 4 and list(case.out.glob("snapshots/*/*.partial")))
    process.send(SIGTERM)
    assert process.until(lambda: "SIGTERM: finishing this block" in process.printed)
    began = time.monotonic()
    process.send(SIGTERM)
    assert process.wait() == 128 + SIGTERM
    assert time.monotonic() - began < AGES / 4
    assert case.number() == 4
    case.run("--resume")
    assert case.digests() == whole(case).digests()


@pytest.mark.parametrize(("number", "code"), [(SIGINT, 130), (SIGTERM, -SIGTERM)])
def test_a_signal_while_the_model_is_loaded_ends_the_run_at_once(case: Any, number: Signals, code: int) -> None:
    process = case.start(before=SLOW_LOADING)
    assert process.until(lambda: "loading" in process.printed)
    began = time.monotonic()
    process.send(number)
    assert process.wait() == code, process.printed
    assert time.monotonic() - began < AGES / 4
    assert "Traceback" not in process.printed


def test_a_signal_while_finished_blocks_are_replayed_leaves_the_snapshot_as_it_is(case: Any, whole: Whole) -> None:
    case.config["snapshots"] |= {"kv": "recompute", "every_blocks": 12}
    case.killed_after(12)
    before = {path: path.read_bytes() for path in case.snapshots()}
    process = case.start("--resume", before=SLOW_REPLAY)
    assert process.until(lambda: "replaying" in process.printed)
    process.send(SIGTERM)
    assert process.wait() == 128 + SIGTERM, process.printed
    assert process.printed.count("replaying") < 6
    assert {path: path.read_bytes() for path in case.snapshots()} == before
    case.run("--resume")
    assert case.digests() == whole(case).digests()


def test_a_signal_while_videos_are_laid_side_by_side_is_heard(case: Any) -> None:
    case.config["model"]["compare_policy"] = {"class_path": "Window", "init_args": {"context_blocks": 2}}
    case.config["data"]["seconds"] = 3
    process = case.start(before=SLOW_PAGES)
    assert process.until(lambda: "laying out" in process.printed)
    process.send(SIGTERM)
    assert process.wait() == 128 + SIGTERM, process.printed
    assert process.printed.count("laying out") < 6
    assert len(case.digests()) == 2
    case.run("--resume")
    assert len(case.digests()) == 3
    assert not list(case.out.glob("*partial*"))


def test_two_runs_do_not_work_in_one_folder(case: Any, whole: Whole) -> None:
    first = case.start(before=SLOW_SAVING)
    assert first.until(lambda: case.number() == 4)  # from here on it is busy for long
    for how in ([], ["--resume"], ["--overwrite", "true"]):
        printed = case.run(*how, code=2)
        assert "Another run is using" in printed
    first.send(SIGKILL)
    first.wait()
    case.run("--resume")  # the lock of a killed run is no lock
    assert case.digests() == whole(case).digests()


def test_of_several_processes_each_saves_its_video_when_one_hears_the_signal(case: Any, whole: Whole) -> None:
    case.pixels = 384  # what is run before a command does not reach the processes that it starts
    case.config["data"] = {"prompts": ["a red ball over snow at day", "a blue box over snow at night"], "seconds": 9}
    case.config["snapshots"] = {"every_seconds": None}
    case.config["trainer"] = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}
    process = case.start(environment={"GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"})
    assert process.until(
        lambda: len([path for path in case.out.glob("*.partial.mp4") if path.stat().st_size > 20_000]) == 2
    )
    process.send(SIGTERM)
    assert process.wait() == 128 + SIGTERM, process.printed
    assert process.printed.count("finishing this block") == 1
    assert "Traceback" not in process.printed
    assert len(case.snapshots()) == 2

    del case.config["trainer"]
    case.run("--resume")
    assert case.digests() == whole(case).digests()
    assert len(case.digests()) == 2
