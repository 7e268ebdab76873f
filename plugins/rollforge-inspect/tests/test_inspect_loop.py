"""The loop, the tool and what is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rollforge_inspect import Answer, Call, Look, Thinker, Video, inspect
from rollforge_inspect.tool import ToolError, crop_video

from rollforge.cli import main
from rollforge.errors import UserError

Videos = dict[str, Path]


class Scripted(Thinker):
    """Makes given moves, and notes what it is shown."""

    def __init__(self, moves: Sequence[Call | Answer]) -> None:
        self.moves, self.seen = list(moves), list[Look | ToolError]()

    def begin(self, question: str, video: Video) -> None:
        self.left: list[int] = []

    def think(self, seen: Look | ToolError, calls_left: int) -> Call | Answer:
        self.seen.append(seen)
        self.left.append(calls_left)
        return self.moves[len(self.seen) - 1]


def test_the_loop_skims_calls_and_ends_with_the_answer(videos: Videos) -> None:
    thinker = Scripted(
        [Call.of("closer", 30, 40), Call.of("outside", 90, 101), Answer("seen", "at 37 s", (36.0, 38.0))]
    )
    trace = inspect(videos["cut"], "when?", thinker, calls=4)
    skim, window, refused = thinker.seen
    assert isinstance(skim, Look)
    assert skim.times == tuple(float(second) for second in range(100))
    assert isinstance(window, Look)
    assert (window.times[0], len(window.times), window.frames.shape[1:]) == (30.0, 10, (64, 64, 3))
    assert str(refused) == "end_time 101 must not be above the video's length of 100 s."
    assert thinker.left == [4, 3, 2]
    assert trace.windows == [(30.0, 40.0)]
    written = trace.as_json()
    assert (written["answer"], written["interval"], written["windows"]) == ("at 37 s", [36.0, 38.0], [[30.0, 40.0]])
    assert [(call["name"], call.get("frames"), call.get("error", "")[:8]) for call in written["calls"]] == [
        ("crop_video", 10, ""), ("crop_video", None, "end_time"),
    ]  # fmt: skip


def test_without_an_answer_it_ends_after_the_calls(videos: Videos) -> None:
    with pytest.raises(UserError, match=r"Scripted gave no answer within 2 tool calls; the last was refused: end_time"):
        inspect(videos["cut"], "when?", Scripted([Call.of("", 1, 2), Call.of("", 3, 2), Call.of("", 1, 2)]), calls=2)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (-1, 5, "start_time -1 must not be below 0."),
        (5, 5, "end_time 5 must be above start_time 5."),
        (100, 101, "start_time 100 must be below the video's length of 100 s."),
        (99, 100.5, "end_time 100.5 must not be above the video's length of 100 s."),
        ("1", 5, "start_time must be a number of seconds, not '1'."),
        (1, True, "end_time must be a number of seconds, not True."),
        (1, float("nan"), "end_time must be a number of seconds, not nan."),
        (1, 10**400, "end_time must be a number of seconds, not 1000"),
        (None, 5, "start_time must be a number of seconds, not None."),
    ],
)
def test_the_tool_refuses_windows_outside_of_the_video(videos: Videos, start: Any, end: Any, expected: str) -> None:
    with pytest.raises(ToolError) as refused:
        crop_video(Video(videos["cut"]), start, end)
    assert str(refused.value).startswith(expected)


def test_a_window_has_from_one_to_128_frames(videos: Videos) -> None:
    video = Video(videos["cut"])
    assert crop_video(video, 99.9, 100).times == (99.75,)  # the last frame
    assert len(video.look(0, 100, 30).times) == 30
    assert video.look(0, 100, 30).times[1] == pytest.approx(100 / 30)


@pytest.mark.usefixtures("installed")
def test_the_command_writes_a_trace_and_a_page(
    videos: Videos, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    line = ["inspect", str(videos["cut"]), "--question", "when is the <b>cut</b>?", "--output_dir", str(out)]
    assert main(line) == 0
    printed = capsys.readouterr().out
    trace = json.loads((out / "trace.json").read_text())
    assert list(trace) == ["video", "seconds", "question", "thinker", "answer", "interval", "windows", "calls"]
    assert printed.startswith(f"{trace['answer']} [{trace['interval'][0]:.2f} s, {trace['interval'][1]:.2f} s]\n")
    page = (out / "inspect.html").read_text()
    assert "<h1>when is the &lt;b&gt;cut&lt;/b&gt;?</h1>" in page
    assert page.count("<img ") == 24 + 2 * len(trace["windows"])
    assert main(line) == 2
    assert "trace.json exists" in capsys.readouterr().err
    assert main([*line, "--overwrite"]) == 0


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--question", " "], "The question has no words"),
        (["--question", "x", "--endpoint", "http://127.0.0.1:1"], "--endpoint belongs to --thinker chat"),
        (["--question", "x", "--thinker", "chat", "--model", "m"], "--thinker chat needs --endpoint and --model"),
        (["--question", "x", "--timeout", "1e300"], "must be a number above 0 and at most 86,400"),
        (["--question", "x", "--output_dir", __file__], "is not a folder; choose another --output_dir"),
        (["--question", "x", "--calls", "-1"], "must be a whole number of 0 or more"),
        ([], "the following arguments are required: -q/--question"),
    ],
)
def test_what_the_command_cannot_do_is_one_sentence_and_writes_nothing(
    videos: Videos, tmp_path: Path, more: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(videos["short"]), "--output_dir", str(tmp_path / "out"), *more]) == 2
    stderr = capsys.readouterr().err
    assert expected in stderr
    assert stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("content", [b"", b"no video at all"])
def test_a_file_without_frames_is_one_sentence(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "video.mp4").write_bytes(content)
    line = ["inspect", str(tmp_path / "video.mp4"), "-q", "when?", "--output_dir", str(tmp_path / "out")]
    assert main(line) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()
