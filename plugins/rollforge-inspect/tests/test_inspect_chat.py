"""A model behind an endpoint: the messages it gets, and all that can be wrong with what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rollforge_inspect import ChatThinker, Trace, inspect
from rollforge_inspect.endpoint import KEY, LARGEST, Endpoint
from rollforge_inspect.page import page
from stand_in import Server, serving

from rollforge.cli import main
from rollforge.errors import UserError

Videos = dict[str, Path]
ANSWER = '<think>it is there</think><answer>{"text": "at 37 s", "interval": [36.5, 37.5]}</answer>'


def call(start: Any = 30, end: Any = 40, name: str = "crop_video") -> str:
    arguments = {"video_path": "cut.mp4", "start_time": start, "end_time": end}
    return f"<think>closer</think><tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def asked(server: Server, video: Path, calls: int = 3, timeout: float = 30.0) -> Trace:
    return inspect(video, "when is the cut?", ChatThinker(Endpoint(server.address, timeout), "m"), calls)


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)


def test_it_skims_looks_and_answers(videos: Videos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    with serving(call(), ANSWER) as server:
        trace = asked(server, videos["cut"])
    assert (trace.answer, trace.interval, trace.windows) == ("at 37 s", (36.5, 37.5), [(30.0, 40.0)])
    assert [made.thought for made, _ in trace.moves] == ["closer"]
    first, second = server.asked
    assert (first["model"], first["max_tokens"]) == ("m", 1024)
    assert [message["role"] for message in second["messages"]] == ["system", "user", "assistant", "user"]
    skim, window = second["messages"][1]["content"], second["messages"][3]["content"]
    assert skim[0]["text"].startswith("cut.mp4, 100.0 s. Question: when is the cut?")
    assert [part["type"] for part in window] == ["text", *["text", "image_url"] * 10, "text"]
    assert window[1]["text"] == "30.00 s"
    assert window[2]["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")
    assert window[-1]["text"] == "</tool_response> 2 tool calls are left."
    assert sum(part["type"] == "image_url" for part in skim) == 32
    assert server.keys == ["Bearer secret"] * 2
    assert "secret" not in json.dumps(trace.as_json()) + page(trace)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (call(90, 101), "end_time 101 must not be above the video's length of 100 s."),
        (call("a", 5), "start_time must be a number of seconds, not 'a'."),
        (call(name="delete"), "There is no tool 'delete'; call crop_video."),
        ("<tool_call>{broken</tool_call>", "There is no tool 'of a call that is not JSON: {broken'; call crop_video."),
        ('<tool_call>{"name": "crop_video", "arguments": {"start_time": 1}}</tool_call>', "crop_video needs end_time"),
        ('<tool_call>{"name": "crop_video", "arguments": [1]}</tool_call>', "There is no tool"),
        (call(1, 2).replace("1,", "1e999,"), "There is no tool"),
        (call(1, 2).replace("1,", "NaN,"), "There is no tool"),
        (f"<tool_call>{'[' * 100_000}</tool_call>", "There is no tool"),
    ],
    ids=["outside", "text", "name", "broken", "missing", "list", "huge", "nan", "deep"],
)
def test_a_wrong_call_is_refused_and_may_be_made_again(videos: Videos, wrong: str, expected: str) -> None:
    with serving(wrong, call(), ANSWER) as server:
        trace = asked(server, videos["cut"])
    assert trace.answer == "at 37 s"
    assert trace.as_json()["calls"][0]["error"].startswith(expected)
    (part,) = server.asked[1]["messages"][-1]["content"]
    assert part["text"].startswith(f"<tool_response>Error: {expected}")
    assert trace.windows == [(30.0, 40.0)]


def test_words_without_a_call_are_asked_for_once_more(videos: Videos) -> None:
    with serving("I think it is late.", ANSWER) as server:
        assert asked(server, videos["cut"]).answer == "at 37 s"
    assert server.asked[1]["messages"][-1]["content"].startswith("Write either one <tool_call> or one <answer>")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('<answer>{"text": "It never happens.", "interval": null}</answer>', "It never happens."),
        ("<answer>It never happens.</answer>", "It never happens."),
    ],
)
def test_an_answer_may_be_that_nothing_was_found(videos: Videos, text: str, answer: str) -> None:
    with serving(text) as server:
        trace = asked(server, videos["cut"])
    assert (trace.answer, trace.interval, trace.windows) == (answer, None, [])


BAD = {
    "late": (None, "gave no answer within 0.2 s; allow more with --timeout."),
    "no call": ("Well.", "The model m answered twice with neither a tool call nor an answer, at last 'Well.'; choose"),
    "many calls": (call(), "ChatThinker gave no answer within 3 tool calls. Allow more calls, or take another"),
    "broken call": (
        "<tool_call>{</tool_call>",
        "ChatThinker gave no answer within 3 tool calls; the last was refused:",
    ),
    "outside": (call(500, 600), "the last was refused: start_time 500 must be below the video's length of 100 s."),
    "interval": (
        '<answer>{"text": "x", "interval": [200, 300]}</answer>',
        "answered with the interval [200, 300]; expected",
    ),
    "no interval": ('<answer>{"text": "x", "interval": 3}</answer>', "answered with the interval 3; expected [start"),
    "ten megabytes": (b"x" * 10_000_000, f"answered with more than {LARGEST >> 10} KiB; limit its answers."),
    "a status": (500, "answered with status 500 (Internal Server Error); check it."),
    "a redirect": (302, "answered with status 302 (Found); check it."),
    "no JSON": (b"<html>", "did not answer as a chat endpoint does; check the address."),
    "another JSON": (b'{"choices": []}', "did not answer as a chat endpoint does; check the address."),
    "no text": (b'{"choices": [{"message": {"content": null}}]}', "answered without text; choose a model that writes"),
}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", BAD)
def test_an_endpoint_that_fails_is_one_sentence_and_nothing_is_written(
    videos: Videos, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reply, expected = BAD[name]
    with serving(reply) as server:
        more = ["--thinker", "chat", "--endpoint", server.address, "--model", "m", "--calls", "3"]
        more += ["--timeout", "0.2"] if reply is None else []
        line = ["inspect", str(videos["cut"]), "-q", "when?", "--output_dir", str(tmp_path / "out"), *more]
        assert main(line) == 2
    stderr = capsys.readouterr().err
    assert expected in stderr
    assert stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_a_model_writes_is_escaped(videos: Videos) -> None:
    words = "<script>alert(1)</script> \\ud800 \\u0000"
    with serving(call(), '<answer>{"text": "' + words + '", "interval": null}</answer>') as server:
        trace = asked(server, videos["cut"])
    shown = page(trace)
    assert "<script>" not in shown
    assert "&lt;script&gt;alert(1)" in shown
    shown.encode()
    assert json.loads(json.dumps(trace.as_json())) == trace.as_json()


@pytest.mark.parametrize(
    "address", ["file:///etc/passwd", "127.0.0.1:8000", "http://user:word@127.0.0.1/v1", "http://["]
)
def test_an_address_is_one_of_an_endpoint(address: str) -> None:
    with pytest.raises(UserError, match="is not the address of an endpoint"):
        Endpoint(address)


def test_a_key_that_no_header_can_hold_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret\nother")
    with pytest.raises(UserError, match=f"{KEY} holds characters that no key has"):
        Endpoint("http://127.0.0.1:9/v1")


def test_a_key_is_not_sent_unencrypted_to_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    with pytest.raises(UserError, match="is not encrypted") as refused:
        Endpoint("http://example.org/v1")
    assert "secret" not in str(refused.value)
    Endpoint("https://example.org/v1")


def test_a_port_where_nothing_listens_is_one_sentence(videos: Videos) -> None:
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1/v1/chat/completions cannot be reached"):
        inspect(videos["cut"], "when?", ChatThinker(Endpoint("http://127.0.0.1:1/v1"), "m"))
