"""kill -9 at random moments: whatever was lost, the resumed video is the uninterrupted one, frame for frame."""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from signal import SIGKILL
from typing import Any

import pytest

TRAINED = ("RollingSink", "LongLive")  # policies that are tried with the weights that ship; the others, with fewer
GROUP = 12  # frames that a player may lose of a video that was cut off
SHOTS = [{"prompt": "a red ball over snow at day"}, {"at": "3.5s", "prompt": "a blue box over grass at night"}]
POLICIES: dict[str, dict[str, Any]] = {
    "Window": {"context_blocks": 3},
    "AttentionSink": {"context_blocks": 3, "sink_blocks": 2},
    "SlidingIndices": {"context_blocks": 3, "sink_blocks": 2},
    "RollingSink": {"context_blocks": 3, "sink_blocks": 2},
    "LongLive": {"context_blocks": 3, "sink_blocks": 1},
}
KILLED_WHILE_WRITING = """
import os, signal
from rollforge.files import checksummed as sealed
real, left = sealed.numbers_of, [{tensors}]
def numbers_of(value):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(value)
sealed.numbers_of = numbers_of
"""


@dataclass
class Tally:
    """What has happened."""

    kills: int = 0
    loading: int = 0  # before there was a snapshot
    writing: int = 0  # while a snapshot or its latents were written
    late: int = 0  # when the video was whole and the manifest did not have it yet
    finished: int = 0  # runs that came to their end and were compared
    seconds: float = 0.0


class Survivor:
    """A run that is killed and resumed again and again.

    Args:
        case: the run.
        whole: the same, uninterrupted.
        chance: decides the moments.
        tally: counts them.
    """

    def __init__(self, case: Any, whole: Any, chance: random.Random, tally: Tally) -> None:
        self.case, self.whole, self.chance, self.tally = case, whole, chance, tally
        self.pace, self.tensors = whole.seconds, 100  # the last moments; halved where a run was done before

    def survive(self, kills: int, writing: float) -> None:
        """Kills the run so many times, a share of them while it writes a snapshot, and compares each end."""
        began = time.monotonic()
        for n in range(kills):
            while not self._killed(self.chance.random() < writing):
                self._compare()
            self._look()
            if n == kills - 1 or self.chance.random() < 0.5:
                self.case.run("--resume")
                self._compare()
        self.tally.seconds += time.monotonic() - began

    def _killed(self, writing: bool) -> bool:
        """Starts or resumes the run and kills it; False where it came to its end before that."""
        if writing:
            at = self.chance.randrange(1, self.tensors)
            process = self.case.start("--resume", before=KILLED_WHILE_WRITING.format(tensors=at))
        else:
            process = self.case.start("--resume")
            loading = self.chance.random() < 0.1
            if loading or process.until(lambda: self.case.partial):
                time.sleep(self.chance.uniform(0, self.pace))
            process.send(SIGKILL)
        if process.wait() == 0:
            self.pace, self.tensors = self.pace / 2, max(2, self.tensors // 2)
            return False
        assert process.code == -SIGKILL, process.printed
        self.tally.kills += 1
        self.tally.loading += not self.case.number()
        self.tally.writing += any(self.case.out.glob("*/*/*.safetensors.partial"))
        self.tally.late += bool(self.case.digests())
        return True

    def _look(self) -> None:
        """The unfinished video can be watched up to the last snapshot, and the manifest does not call it finished."""
        partial, promised = self.case.partial, 3 * self.case.number() - GROUP
        if partial and promised > 0:
            assert self.case.count(partial) >= promised
        if (self.case.out / "manifest.json").exists() and not self.case.digests():
            assert self.case.manifest()["complete"] is False

    def _compare(self) -> None:
        """The run has come to its end, as the uninterrupted one did; another may begin."""
        case, whole = self.case, self.whole
        assert case.digests() == whole.digests()
        for sheet in whole.out.glob("*.png"):
            assert (case.out / sheet.name).read_bytes() == sheet.read_bytes()
        assert sorted(path.name for path in case.out.iterdir()) == sorted(path.name for path in whole.out.iterdir())
        assert case.manifest()["complete"] is True
        shutil.rmtree(case.out)
        self.tally.finished += 1


def prepared(case: Any, policy: str, kv: str) -> Any:
    if policy in TRAINED:
        case.config["model"]["backbone"]["init_args"] = {"weights": "pocket"}
    case.config["model"]["policy"] = {"class_path": policy, "init_args": POLICIES[policy]}
    case.config["snapshots"] |= {"kv": kv}
    if policy == "LongLive":
        case.config["data"]["prompts"] = [SHOTS]
    return case


@pytest.mark.parametrize(
    ("policy", "kv", "writing"),
    [("RollingSink", "save", 0), pytest.param("LongLive", "recompute", 1, marks=pytest.mark.matrix)],
)
def test_a_kill_while_it_rolls_or_writes_a_snapshot_leaves_the_same_video(
    policy: str, kv: str, writing: float, another: Callable[[str], Any], whole: Callable[[Any], Any]
) -> None:
    tally = Tally()
    case = prepared(another(policy + kv), policy, kv)
    Survivor(case, whole(case), random.Random(1), tally).survive(1, writing)
    assert tally.kills == 1
    assert tally.finished >= 1
    assert tally.writing >= writing


@pytest.mark.matrix
@pytest.mark.parametrize("kv", ["save", "recompute"])
@pytest.mark.parametrize("policy", POLICIES)
def test_twenty_kills_of_each_policy_in_each_mode_leave_the_same_videos(
    policy: str, kv: str, another: Callable[[str], Any], whole: Callable[[Any], Any]
) -> None:
    tally, chance = Tally(), random.Random(f"{policy} {kv}")
    case = prepared(another(policy + kv), policy, kv)
    Survivor(case, whole(case), chance, tally).survive(20, 0.25)
    assert tally.kills == 20
    sys.stderr.write(f"\nmatrix {json.dumps({'policy': policy, 'kv': kv, **asdict(tally)})}\n")
