"""The contract of a thinker: it sees frames, and answers or asks for a window."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rollforge_inspect.tool import NAME, ToolError
from rollforge_inspect.video import Look, Video

Interval = tuple[float, float]


@dataclass(frozen=True)
class Call:
    """A tool call.

    Args:
        thought: why.
        arguments: of the tool, as they were given: they may be wrong.
        name: of the tool.
    """

    thought: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    name: str = NAME

    @classmethod
    def of(cls, thought: str, start: float, end: float) -> Call:
        """A call for the window from ``start`` to ``end``."""
        return cls(thought, {"start_time": start, "end_time": end})


@dataclass(frozen=True)
class Answer:
    """The end of the loop.

    Args:
        thought: why.
        text: the answer.
        interval: when it happens, in seconds; None where nothing was found.
    """

    thought: str
    text: str
    interval: Interval | None = None


class Thinker(ABC):
    """Decides where to look next. One object inspects one video after another."""

    @abstractmethod
    def begin(self, question: str, video: Video) -> None:
        """A new inspection."""

    @abstractmethod
    def think(self, seen: Look | ToolError, calls_left: int) -> Call | Answer:
        """The next move.

        Args:
            seen: the skimmed video at first; then the window that was asked for, or why it was refused.
            calls_left: tool calls that are left.
        """
