"""A thinker that asks a model which sees pictures, over an OpenAI-compatible endpoint, in the tags of LongVT."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from math import isfinite
from typing import Any

from rollforge.errors import UserError
from rollforge_inspect.endpoint import Endpoint
from rollforge_inspect.pictures import jpeg
from rollforge_inspect.thinkers.base import Answer, Call, Interval, Thinker
from rollforge_inspect.tool import ToolError, number
from rollforge_inspect.video import Look, Video

SYSTEM = """You answer a question about a video. You see frames of it, each after its time in seconds.
Think first, between <think> and </think>. Then do one of two things.
Look closer, once a turn:
<tool_call>{"name": "crop_video", "arguments": {"video_path": "...", "start_time": 10.0, "end_time": 20.0}}</tool_call>
Or answer in words, and say when it happens in seconds, or null where the video does not show it:
<answer>{"text": "...", "interval": [10.0, 12.5]}</answer>"""
TOKENS = 1024
"""Tokens of an answer at most."""
AGAIN = "Write either one <tool_call> or one <answer>, each with the JSON that is described."
OPENING = 32
"""Frames of the skimmed video that a model is shown by default."""


class ChatThinker(Thinker):
    """Asks a model behind an endpoint, such as a local vLLM or llama.cpp server.

    Args:
        endpoint: where it is.
        model: its name there.
        frames: frames of a look that it is shown at most; the trace and the page have them all.
    """

    def __init__(self, endpoint: Endpoint, model: str, frames: int = OPENING) -> None:
        self.endpoint, self.model, self.frames = endpoint, model, frames

    def begin(self, question: str, video: Video) -> None:
        self.question, self.video = question, video
        self.messages: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM}]

    def think(self, seen: Look | ToolError, calls_left: int) -> Call | Answer:
        self.messages.append({"role": "user", "content": self._shown(seen, calls_left)})
        for attempt in range(2):
            text = self.endpoint.ask({"model": self.model, "messages": self.messages, "max_tokens": TOKENS})
            self.messages.append({"role": "assistant", "content": text})
            if (move := self._move(text)) is not None:
                return move
            if not attempt:
                self.messages.append({"role": "user", "content": AGAIN})
        raise UserError(
            f"The model {self.model} answered twice with neither a tool call nor an answer, at last {text!r:.60}; "
            "choose a model that follows instructions."
        )

    def _shown(self, seen: Look | ToolError, calls_left: int) -> list[dict[str, Any]]:
        if isinstance(seen, ToolError):
            return [_text(f"<tool_response>Error: {seen}</tool_response> {_left(calls_left)}")]
        opening = len(self.messages) == 1
        message = f"{self.video.path.name}, {self.video.seconds:.1f} s. Question: {self.question}" if opening else ""
        parts = [_text(f"{message or '<tool_response>'} Frames from {seen.start:g} s to {seen.end:g} s:")]
        for at in _spread(len(seen.times), self.frames):
            parts += [_text(f"{seen.times[at]:.2f} s"), _picture(jpeg(seen.frames[at]))]
        return [*parts, _text(_left(calls_left) if opening else f"</tool_response> {_left(calls_left)}")]

    def _move(self, text: str) -> Call | Answer | None:
        thought = (_within(text, "think") or "").strip()
        if (call := _within(text, "tool_call")) is not None:
            return _call(thought, call)
        if (answer := _within(text, "answer")) is not None:
            return self._answer(thought, answer.strip())
        return None

    def _answer(self, thought: str, text: str) -> Answer:
        """An answer as JSON, or in words, which then says nothing of when."""
        content = _json(text)
        if not isinstance(content, dict) or "text" not in content:
            return Answer(thought, text)
        return Answer(thought, str(content["text"]), self._interval(content.get("interval")))

    def _interval(self, found: Any) -> Interval | None:
        """The part of an interval that is in the video. Raises ``UserError`` for what is not one."""
        if found is None:
            return None
        try:
            start, end = (number("interval", each) for each in found)
            start, end = max(0.0, start), min(self.video.seconds, end)
            if start < end:
                return start, end
        except (ToolError, TypeError, ValueError):
            pass
        raise UserError(
            f"The model {self.model} answered with the interval {found!r:.60}; expected [start, end] within "
            f"{self.video.seconds:g} s, or null. Ask again, or choose another model."
        )


def _call(thought: str, text: str) -> Call:
    """A tool call as it was written; what is wrong in it, the tool says."""
    content = _json(text)
    arguments = content.get("arguments") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(arguments, dict):
        return Call(thought, {}, f"of a call that is not JSON: {text.strip()[:40]}")
    return Call(thought, arguments, str(content.get("name")))


def _finite(text: str) -> float:
    """A number that JSON can hold. Raises ``ValueError`` for another."""
    if not isfinite(found := float(text)):
        raise ValueError(text)
    return found


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError):
        return None


def _within(text: str, tag: str) -> str | None:
    """What stands between the first pair of a tag; None without one."""
    _, opened, rest = text.partition(f"<{tag}>")
    inner, closed, _ = rest.partition(f"</{tag}>")
    return inner if opened and closed else None


def _left(calls: int) -> str:
    return f"{calls} tool calls are left." if calls else "No tool call is left: answer now."


def _spread(count: int, most: int) -> Sequence[int]:
    """Places of at most so many frames, evenly."""
    kept = min(count, most)
    return [n * count // kept for n in range(kept)]


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _picture(content: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"}}
