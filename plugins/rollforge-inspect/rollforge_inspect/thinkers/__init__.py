"""What decides where to look: by curves, or by a model behind an endpoint."""

from rollforge_inspect.thinkers.base import Answer, Call, Thinker
from rollforge_inspect.thinkers.chat import ChatThinker
from rollforge_inspect.thinkers.curves import CurveThinker

__all__ = ["Answer", "Call", "ChatThinker", "CurveThinker", "Thinker"]
