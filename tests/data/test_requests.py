"""Prompts in every way they can be given, and what is said of those that cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rollforge.data.requests import Shot, read_prompts, seconds
from rollforge.errors import UserError
from rollforge.lightning.data import RolloutData


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30s", 30), ("30", 30), (12.5, 12.5), ("1m30s", 90), ("2m", 120), ("1:30", 90), ("0.5s", 0.5)],
)
def test_times_are_read(text: Any, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "-3s", "3h", "1:2:3"])
def test_what_is_no_time_is_said(text: str) -> None:
    with pytest.raises(UserError, match=r"is not a time; write 30s, 1m30s or 1:30\.$"):
        seconds(text)


def test_a_list_may_mix_prompts_and_prompts_over_time() -> None:
    read = read_prompts(["one", [{"prompt": "two"}, {"at": "30s", "prompt": "three"}]])
    assert read == [[Shot("one", 0.0)], [Shot("two", 0.0), Shot("three", 30.0)]]


def test_a_file_has_a_prompt_on_each_line_and_a_folder_has_files(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("three\n")
    (tmp_path / "a.txt").write_text("one\n\n  two \n")
    (tmp_path / "notes.md").write_text("nothing")
    assert read_prompts(tmp_path / "a.txt") == [[Shot("one", 0.0)], [Shot("two", 0.0)]]
    assert [shots[0].prompt for shots in read_prompts(str(tmp_path))] == ["one", "two", "three"]


def test_json_lines_share_the_video_out_where_they_give_no_times(tmp_path: Path) -> None:
    file = tmp_path / "interactive.jsonl"
    lines = [{"prompts": ["a", "b", "c"]}, {"prompt": "d"}, {"prompts": [{"prompt": "e"}, {"at": "6s", "prompt": "f"}]}]
    file.write_text("\n".join(json.dumps(line) for line in lines))
    requests = RolloutData(prompts=str(file), seconds=12).requests(fps=2.0)
    assert [request.prompts for request in requests] == [{0: "a", 8: "b", 16: "c"}, {0: "d"}, {0: "e", 12: "f"}]
    assert [request.prompt for request in requests] == ["a | b | c", "d", "e | f"]
    assert [requests[0].prompt_at(frame) for frame in (0, 7, 8, 23)] == ["a", "a", "b", "c"]


def test_a_prompt_may_begin_with_a_cut_which_is_part_of_what_a_video_is() -> None:
    shots = [{"prompt": "a"}, {"at": "3s", "prompt": "b"}, {"at": "6s", "prompt": "c", "cut": True}]
    plain = [{key: value for key, value in shot.items() if key != "cut"} for shot in shots]
    cut, uncut = RolloutData(prompts=[shots, plain], seconds=12).requests(fps=2.0)
    assert (cut.prompts, cut.cuts, uncut.cuts) == (uncut.prompts, (12,), ())
    assert cut.schedule != uncut.schedule
    assert cut.content == uncut.content | {"cuts": [12]}


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ([[{"prompt": "a"}, {"at": "3s", "prompt": "b", "cut": "yes"}]], "'b' has cut: 'yes'; expected true or false"),
        (
            [[{"prompt": "a", "cut": True}]],
            "'a' has cut: True; expected true or false, and true only for prompts after",
        ),
        ([[{"prompt": "a"}, {"prompt": "b"}]], "'b' follows another and has no time"),
        ([[{"prompt": "a"}, {"at": "9s", "prompt": "b"}, {"at": "3s", "prompt": "c"}]], "must start at 0 and rise"),
        ([[{"at": "1s", "prompt": "a"}]], "must start at 0"),
        ([[{"promt": "a"}]], "expected `- at: 30s`"),
        ([[]], "expected `- at: 30s`"),
        (["a", " "], "empty prompt"),
        ([[{"prompt": "a"}, {"at": "40s", "prompt": "b"}]], "beyond the end of a video of 12 s"),
    ],
)
def test_prompts_that_make_no_sense_are_said(prompts: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        RolloutData(prompts=prompts, seconds=12).requests(fps=2.0)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"prompt": "a"}\n{"prompt"')
    with pytest.raises(UserError, match=r"x\.jsonl, line 2: expected"):
        read_prompts(file)


@pytest.mark.parametrize(("asked", "latents"), [(5, 21), (60, 241), (300, 1201), (0.01, 1)])
def test_a_causal_codec_needs_one_latent_frame_more(asked: float, latents: int) -> None:
    """At 16 pictures a second: N latent frames of Wan's VAE are 4N - 3 pictures."""
    (request,) = RolloutData(prompts="a", seconds=asked).requests(4.0, pictures=4)
    assert request.frames == latents
    assert 4 * latents - 3 >= 16 * asked or latents == 1


@pytest.mark.parametrize(
    ("name", "content", "count"),
    [
        ("b.txt", b"caf\xe9\ntwo\n\nthree\n", 3),  # of another encoding
        ("b.txt", b"", 1),
        ("b.jsonl", b'{"prompt": "one"}\n{"prompt": ""}\n', 2),
        ("b.jsonl", b'{"prompt": "one"}\nnonsense\n', 2),
        ("b.json", b"[", 1),
    ],
)
def test_a_prompt_file_that_is_left_out_changes_no_other_video(
    tmp_path: Path, name: str, content: bytes, count: int
) -> None:
    (tmp_path / "a.txt").write_text("first\n")
    (tmp_path / name).write_bytes(content)
    (tmp_path / "c.txt").write_text("last\n")
    data = RolloutData(prompts=str(tmp_path), seed=5)
    assert [(each.sample, each.prompt) for each in data.requests(8.0)] == [(0, "first"), (1 + count, "last")]
    assert [*data.unreadable] == [tmp_path / name]


@pytest.mark.parametrize("names", [("a", "b", "c"), ("1", "2", "3"), ("first", "other", "last")])
def test_openings_stay_with_their_prompts_where_a_prompt_file_is_left_out(tmp_path: Path, names: Any) -> None:
    prompts, pictures = tmp_path / "prompts", tmp_path / "pictures"
    for folder in (prompts, pictures):
        folder.mkdir()
    for name, text in (("a", "first"), ("b", ""), ("c", "last")):
        (prompts / f"{name}.txt").write_text(text)
    for name in names:
        (pictures / f"{name}.png").touch()
    openings = [each.opening for each in RolloutData(prompts=str(prompts), opening=str(pictures)).requests(8.0)]
    assert openings == [pictures / f"{names[0]}.png", pictures / f"{names[2]}.png"]
