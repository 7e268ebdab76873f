"""Tool-using inspection of long videos, after LongVT (arXiv 2511.20785)."""

from rollforge_inspect.loop import inspect
from rollforge_inspect.thinkers import Answer, Call, ChatThinker, CurveThinker, Thinker
from rollforge_inspect.trace import Trace
from rollforge_inspect.video import Look, Video

rollforge_api = 1

__all__ = ["Answer", "Call", "ChatThinker", "CurveThinker", "Look", "Thinker", "Trace", "Video", "inspect"]
