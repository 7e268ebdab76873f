"""What ``--vary`` says, and the points it makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rollforge.comparison.vary import axis, points
from rollforge.errors import UserError


def values(text: str) -> list[str]:
    return [choice.value for choice in axis(text)]


def labels(*varied: str) -> list[str]:
    return [point.label for point in points(varied)]


def test_values_stand_between_commas() -> None:
    assert values("model.policy=Window, RollingSink,") == ["Window", "RollingSink"]
    assert values("--data.seconds=1,2.5") == ["1", "2.5"]


def test_commas_within_brackets_and_quotes_part_nothing() -> None:
    one, two = "{class_path: RollingSink, init_args: {sink_blocks: 3}}", "Window"
    assert values(f"model.policy={one},{two}") == [one, two]
    assert values("data.prompts=[a red ball, a blue box],['a, b']") == ["[a red ball, a blue box]", "['a, b']"]
    assert values("""model.negative_prompt="a, b",it's""") == ['"a, b"', "it's"]


def test_one_list_is_the_list_of_the_values() -> None:
    found = values("model.policy=[{class_path: Window}, {class_path: RollingSink, init_args: {sink_blocks: 2}}]")
    assert [json.loads(each)["class_path"] for each in found] == ["Window", "RollingSink"]
    assert values("model.policy.init_args.sink_blocks=[0, 1]") == ["0", "1"]


def test_axes_make_every_combination_the_last_one_fastest() -> None:
    assert labels("model.policy=Window,RollingSink", "data.seconds=1,2") == [
        "Window, seconds=1",
        "Window, seconds=2",
        "RollingSink, seconds=1",
        "RollingSink, seconds=2",
    ]
    (point, *_) = points(["model.policy=Window", "data.seconds=1"])
    assert point.arguments == ["--model.policy=Window", "--data.seconds=1"]
    assert point.slug == "Window-seconds=1"


def test_a_shared_option_refines_every_class_that_is_varied() -> None:
    shared = ["--data.seed=0", "--model.policy.init_args.context_blocks", "2"]
    (point, _) = points(["model.policy=Window,RollingSink", "data.seed=1"])
    assert point.line([], shared) == ["--model.policy=Window", *shared, "--data.seed=1"]


def test_an_option_wins_over_every_file_and_what_is_varied_over_what_is_shared(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("{}")
    (point,) = points([f"config={tmp_path}/own.yaml", "data.seed=1"])
    shared = ["--data.seconds", "3", "--data.seed=0"]
    assert point.line(["base.yaml"], shared) == [
        *("--config=base.yaml", f"--config={tmp_path}/own.yaml"),
        *shared,
        "--data.seed=1",
    ]


def test_files_and_parts_have_short_names(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.yaml").write_text("{}")
    (tmp_path / "two.yaml").write_text("{}")
    assert labels(f"config={tmp_path}/a/one.yaml,{tmp_path}/two.yaml") == ["one", "two"]
    assert labels(f"config={tmp_path}/a/one.yaml,{tmp_path}/b/one.yaml")[0] == f"{tmp_path}/a/one.yaml"
    part = "{class_path: rollforge.policies.RollingSink, init_args: {sink_blocks: 3}}"
    assert labels(f"model.policy={part},Window") == ["RollingSink(sink_blocks=3)", "Window"]


@pytest.mark.parametrize(
    ("varied", "message"),
    [
        (["model.policy"], "write --vary OPTION=VALUE"),
        (["=Window"], "write --vary OPTION=VALUE"),
        (["model.policy=,"], "names no value"),
        (["model.policy=[]"], "names no value"),
        (["model policy=Window"], "write --vary OPTION=VALUE"),
        (["model.policy={class_path: Window"], "} is missing"),
        (["model.policy='Window"], "' is missing"),
        (["model.policy=[!!python/none x]"], "Python object"),
        (["model.policy=Window,Window"], "names the value Window twice"),
        (["data.seed=1", "data.seed=2"], "names data.seed twice"),
        (["config=nowhere.yaml"], "nowhere.yaml, which is not there"),
        (["a=" + ",".join(map(str, range(50))), "b=" + ",".join(map(str, range(50)))], "2500 points"),
    ],
)
def test_mistakes_are_said_in_one_sentence(varied: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        points(varied)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_slug_is_a_name_for_a_folder() -> None:
    (point,) = points(["model.negative_prompt=../../etc/<b>"])
    assert point.slug == "negative-prompt=..-..-etc-b"
    assert "/" not in point.slug
