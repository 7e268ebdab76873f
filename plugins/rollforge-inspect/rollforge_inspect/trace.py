"""What an inspection leaves: the answer, and how it was found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rollforge_inspect.thinkers.base import Answer, Call, Interval
from rollforge_inspect.tool import ToolError
from rollforge_inspect.video import Look


@dataclass
class Trace:
    """One inspection.

    Args:
        video: its file.
        seconds: its length.
        question: what was asked.
        thinker: what decided where to look.
    """

    video: str
    seconds: float
    question: str
    thinker: str
    looks: list[Look] = field(default_factory=list)
    moves: list[tuple[Call, Look | ToolError]] = field(default_factory=list)
    ended: Answer = field(default_factory=lambda: Answer("", ""))

    @property
    def answer(self) -> str:
        """The answer in words."""
        return self.ended.text

    @property
    def interval(self) -> Interval | None:
        """When it happens, in seconds; None where nothing was found."""
        return self.ended.interval

    @property
    def windows(self) -> list[Interval]:
        """The windows that were looked at, in the order of the calls."""
        return [(seen.start, seen.end) for _, seen in self.moves if isinstance(seen, Look)]

    def as_json(self) -> dict[str, Any]:
        """What ``trace.json`` holds."""
        return {
            "video": self.video,
            "seconds": round(self.seconds, 3),
            "question": self.question,
            "thinker": self.thinker,
            "answer": self.answer,
            "interval": None if self.interval is None else list(self.interval),
            "windows": [list(window) for window in self.windows],
            "calls": [_call(*move) for move in self.moves],
        }


def _call(call: Call, seen: Look | ToolError) -> dict[str, Any]:
    entry: dict[str, Any] = {"thought": call.thought, "name": call.name, "arguments": dict(call.arguments)}
    return entry | ({"frames": len(seen.times)} if isinstance(seen, Look) else {"error": str(seen)})
