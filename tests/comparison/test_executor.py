"""Runs made by processes of their own: failures, signals, and what is made again."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from rollforge.comparison.executor import RunExecutor
from rollforge.comparison.runs import Run
from rollforge.comparison.vary import points

PROGRAM = """
import json, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[sys.argv.index("--output_dir") + 1])
how = next(each for each in sys.argv if each.startswith("--how=")).partition("=")[2]
(folder / "calls").open("a").write(" ".join(sys.argv[1:]) + "\\n")
write = lambda whole: (folder / "manifest.json").write_text(json.dumps({"complete": whole, "videos": []}))
write(False)
if how == "fail":
    print("rollforge: There is no such thing.", file=sys.stderr)
    sys.exit(2)
if how == "die":
    signal.raise_signal(signal.SIGKILL)
if how == "slow" and "--resume" not in sys.argv:
    heard = []
    signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    (folder / "ready").touch()
    while not heard:
        time.sleep(0.01)
    sys.exit(143)
write(True)
(folder / "metrics.json").write_text("{}")
"""


def made(tmp_path: Path, how: str) -> list[Run]:
    """Runs that do as they are called."""
    runs = []
    for n, point in enumerate(points([f"how={how}"])):
        runs.append(Run(point, {}, f"{n:064x}", tmp_path / "runs", point.arguments, 1.0))
    return runs


def work(tmp_path: Path, runs: list[Run]) -> RunExecutor:
    """A worker whose rollforge is the program above."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    return RunExecutor(runs, [sys.executable, "-S", str(program)])


def calls(run: Run) -> list[str]:
    return (run.folder / "calls").read_text().splitlines()


def test_a_point_that_fails_is_named_and_the_others_are_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing, dying, good = runs = made(tmp_path, "fail,die,good")
    work(tmp_path, runs).all()
    assert failing.failure == "There is no such thing."
    assert "SIGKILL, as the system does when memory runs out" in dying.failure
    assert not good.failure
    assert good.finished
    assert good.record["peak_memory_mib"] > 1
    assert good.record["command"].startswith("rollforge test --how=good --output_dir")
    assert "There is no such thing" in (failing.folder / Run.log).read_text()
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in printed] == [
        "how=fail: running", "how=fail: failed", "how=die: running", "how=die: failed",
        "how=good: running", "how=good: done",
    ]  # fmt: skip


def test_what_is_finished_is_reused_and_what_is_begun_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = made(tmp_path, "good,fail")
    work(tmp_path, runs).all()
    again = made(tmp_path, "good,fail")
    capsys.readouterr()
    work(tmp_path, again).all()
    assert capsys.readouterr().out.startswith("how=good: reused, 1.0 of 1.0 s")
    assert len(calls(again[0])) == 1
    assert ["--resume" in call for call in calls(again[1])] == [False, True]


def test_a_signal_goes_to_the_run_and_the_next_time_it_goes_on(tmp_path: Path) -> None:
    first, slow, last = runs = made(tmp_path, "good,slow,also")

    def kill() -> None:
        while not (slow.folder / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=kill).start()
    with pytest.raises(SystemExit) as stop:
        work(tmp_path, runs).all()
    assert stop.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert first.finished
    assert not slow.finished
    assert not last.folder.exists()
    work(tmp_path, runs).all()
    assert all(run.finished for run in runs)
    assert ["--resume" in call for call in calls(slow)] == [False, True]
    assert len(calls(first)) == 1


def test_a_terminal_shows_one_table_that_is_redrawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    work(tmp_path, made(tmp_path, "good,fail")).all()
    printed = capsys.readouterr().out
    assert printed.count("point ") == printed.count("\x1b[3F") + 1
    last = printed.rsplit("\x1b[3F", 1)[1].replace("\x1b[K", "").splitlines()
    assert last[0].split() == ["point", "state", "made", "FPS", "left"]
    assert [line.split()[:2] for line in last[1:]] == [["how=good", "done"], ["how=fail", "failed"]]
