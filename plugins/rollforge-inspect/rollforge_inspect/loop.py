"""The loop: skim, think, crop_video, look, ... answer."""

from __future__ import annotations

from pathlib import Path

from rollforge.errors import UserError
from rollforge_inspect.thinkers.base import Answer, Call, Thinker
from rollforge_inspect.thinkers.curves import CurveThinker
from rollforge_inspect.tool import ARGUMENTS, NAME, ToolError, crop_video
from rollforge_inspect.trace import Trace
from rollforge_inspect.video import Look, Video

CALLS = 5
"""Tool calls at most, as in LongVT."""


def inspect(video: str | Path, question: str, thinker: Thinker | None = None, calls: int = CALLS) -> Trace:
    """Looks for the answer to a question about a video.

    Args:
        video: the file.
        question: what is asked, such as "when does the subject change?".
        thinker: decides where to look. Default: ``CurveThinker``.
        calls: tool calls at most.

    Raises:
        UserError: for a question without words, a video that cannot be read, and a thinker that does not answer.
    """
    if not question.strip():
        raise UserError("The question has no words; ask one, such as 'when does the subject change?'.")
    shown, thinker = Video(video), thinker or CurveThinker()
    trace = Trace(str(video), shown.seconds, question, type(thinker).__name__)
    thinker.begin(question, shown)
    seen: Look | ToolError = shown.skim()
    for left in range(calls, -1, -1):
        if isinstance(seen, Look):
            trace.looks.append(seen)
        move = thinker.think(seen, left)
        if isinstance(move, Answer):
            trace.ended = move
            return trace
        if left:
            seen = _called(shown, move)
            trace.moves.append((move, seen))
    refused = f"; the last was refused: {seen}" if isinstance(seen, ToolError) else ""
    raise UserError(
        f"{trace.thinker} gave no answer within {calls} tool calls{refused or ''}. Allow more calls, or take another "
        "thinker or model.".replace("..", ".")
    )


def _called(video: Video, call: Call) -> Look | ToolError:
    """What the tool shows, or why it refuses."""
    try:
        if call.name != NAME:
            raise ToolError(f"There is no tool {call.name!r:.40}; call {NAME}.")
        if missing := [name for name in ARGUMENTS if name not in call.arguments]:
            raise ToolError(f"{NAME} needs {' and '.join(missing)}, in seconds.")
        return crop_video(video, *(call.arguments[name] for name in ARGUMENTS))
    except ToolError as error:
        return error
