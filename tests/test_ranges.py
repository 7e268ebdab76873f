"""Every number of every part has a range, which holds in Python as in a config, before anything is built."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest

from rollforge.backbones.pocket.network import Pocket
from rollforge.data.clips import VideoClips, WorldClips
from rollforge.errors import UserError
from rollforge.finish.base import finished_size
from rollforge.finish.enlarge import Enlarge
from rollforge.lightning.data import RolloutData
from rollforge.lightning.module import RolloutModule
from rollforge.metrics.repetition import Repetition
from rollforge.objectives.flow import DiffusionForcing
from rollforge.positions.rope import Rope
from rollforge.ranges import Checked, Count, CountFromZero, Finite, NonNegative, Positive, Range, Share, UserPath, hints
from rollforge.registry import registry
from rollforge.rollout.block_check import BlockCheck
from rollforge.samplers import Euler, FewStep
from rollforge.snapshots.settings import Snapshots

ANY_NUMBER = {("RolloutData", "seed"), ("RolloutData", "prompts")}  # a seed is any number, a number is not a prompt


class Part(Checked):
    """Stands for the base class of a kind of part."""


class Plugged(Part):
    """What a plugin's author writes: types, and nothing else."""

    def __init__(
        self,
        count: Count = 1,
        share: Share | None = None,
        scale: Finite | bool = 1.0,
        levels: list[Positive] | tuple[()] = (),
        steps: dict[CountFromZero, Count] | None = None,
        size: tuple[Count, Count] = (1, 1),
        even: Annotated[int, Range(2, 8, step=2)] = 2,
        decay: Annotated[float, Range(0, below=1)] = 0.0,
        either: CountFromZero | Share = 0,
        file: UserPath | None = None,
        mode: Literal["fast", "exact"] | None = None,
    ) -> None:
        self.given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", 0, "Plugged.count must be a whole number of 1 or more, not 0."),
        ("count", None, "Plugged.count must be a whole number of 1 or more, not None."),
        ("count", True, "Plugged.count must be a whole number of 1 or more, not True."),
        ("count", 2.0, "Plugged.count must be a whole number of 1 or more, not 2.0."),
        ("share", 1.5, "Plugged.share must be a number from 0 to 1, not 1.5."),
        ("share", math.nan, "Plugged.share must be a number from 0 to 1, not nan."),
        ("scale", math.inf, "Plugged.scale must be a finite number, not inf."),
        ("levels", [1.0, 0.0], "Plugged.levels[1] must be a number above 0, not 0.0."),
        ("steps", {-1: 3}, "a key of Plugged.steps must be a whole number of 0 or more, not -1."),
        ("steps", {0: 0}, "Plugged.steps[0] must be a whole number of 1 or more, not 0."),
        ("size", (4, 0), "Plugged.size[1] must be a whole number of 1 or more, not 0."),
        ("even", 3, "Plugged.even must be a multiple of 2 from 2 to 8, not 3."),
        ("decay", 1, "Plugged.decay must be a number of 0 or more and below 1, not 1."),
        ("mode", "slow", "Plugged.mode must be one of 'fast', 'exact', not 'slow'."),
        ("either", -1, "Plugged.either must be a whole number of 0 or more or a number from 0 to 1, not -1."),
    ],
)
def test_value_out_of_range_raises_before_the_constructor_runs(name: str, value: Any, expected: str) -> None:
    with pytest.raises(UserError) as error:
        Plugged(**{name: value})
    assert str(error.value) == expected


def test_values_in_range_arrive_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    given = {"count": 3, "share": 1, "scale": True, "levels": [0.5], "steps": {0: 2}, "size": (2, 3), "even": 8}
    given |= {"decay": 0.5, "either": 0.25, "file": "clips/~a.mp4", "mode": "exact"}
    assert Plugged(**given).given == given  # type: ignore[arg-type]
    assert Plugged(file="~/a.mp4").given["file"] == str(tmp_path / "a.mp4")
    assert list(inspect.signature(Plugged).parameters) == list(given)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: Euler(steps=10**9), "Euler.steps must be a whole number from 1 to 10,000"),
        (lambda: Euler(shift=math.nan), "Euler.shift"),
        (lambda: FewStep(timesteps=(1000, math.nan)), r"FewStep.timesteps\[1\]"),
        (lambda: Rope(theta=0), "Rope.theta"),
        (lambda: BlockCheck(max_retries=0), "BlockCheck.max_retries"),
        (lambda: Snapshots(every_seconds=math.inf), "snapshots.every_seconds"),
        (lambda: RolloutData(seconds=0), "data.seconds must be a number above 0, not 0."),
        (lambda: WorldClips(frames=10**9), "WorldClips.frames"),
        (lambda: VideoClips("here", frames=3, size=(64, 0)), r"VideoClips.size\[1\]"),
        (lambda: DiffusionForcing(curriculum={0: 0}), r"DiffusionForcing.curriculum\[0\]"),
        (lambda: Repetition(window=10**9), "Repetition.window"),
        (lambda: Pocket(layers=10**9), "Pocket.layers"),
        (lambda: DiffusionForcing(grid=10**9), "DiffusionForcing.grid"),
        (lambda: WorldClips(clips=10**9), "WorldClips.clips"),
        (lambda: finished_size(Enlarge(10**9), (64, 64)), "The finish Enlarge would make frames of 64000000000x"),
        (lambda: Pocket(freq_dim=3), "Pocket.freq_dim must be a multiple of 2"),
    ],
)
def test_built_in_part_checks_itself(build: Any, expected: str) -> None:
    with pytest.raises(UserError, match=f"^{expected}"):
        build()


def test_every_number_of_every_part_has_a_range() -> None:
    parts = [part.load() for part in registry().parts.values() if part.origin == "rollforge"]
    bare = {
        (part.__name__, name)
        for part in [*parts, RolloutModule, RolloutData, Snapshots, BlockCheck]
        for name, kind in _hints(part).items()
        if _numbers_without_range(kind)
    }
    assert bare == ANY_NUMBER


def _hints(part: type) -> dict[str, Any]:
    found = dict(hints(part.__init__))  # type: ignore[misc]
    assert found or "__init__" not in vars(part), f"the types of {part.__name__} cannot be resolved"
    return found


def _numbers_without_range(kind: Any) -> bool:
    if get_origin(kind) is Annotated:
        return False
    return kind in (int, float) or any(map(_numbers_without_range, get_args(kind)))


def test_non_negative_admits_zero() -> None:
    assert [Range(0).fit("x", float, value) for value in (0, 0.0, 1e300)] == [0, 0.0, 1e300]
    assert get_args(NonNegative)[1] == Range(0)
