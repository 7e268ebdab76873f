"""A thinker without a model: drift curves of the skimmed video, and the points at which they change.

It is deterministic and works offline. Of the events below it looks for those that words of the question name, or for
all, and takes the clearest:

- a cut: nearly the whole picture becomes another from one sample to the next, and stays so;
- an object that appears or vanishes: the share of the picture that differs from its median over time makes a step;
- a drift: the mean colour goes steadily from one value to another.

All thresholds are our own.
"""

from __future__ import annotations

from rollforge.errors import UserError
from rollforge_inspect.thinkers.base import Answer, Call, Interval, Thinker
from rollforge_inspect.thinkers.events import FEWEST, Event, events
from rollforge_inspect.thinkers.features import Features, features
from rollforge_inspect.tool import ToolError
from rollforge_inspect.video import Look, Video

SIDE = 1.0
"""Seconds on each side of a moment that its interval covers."""
SHARP = 0.3
"""Seconds within which the moment is known well enough."""
WORDS = {
    "cut": ("cut", "scene", "shot"),
    "object": ("object", "vanish", "disappear", "appear", "subject", "gone", "leave"),
    "drift": ("drift", "colour", "color", "tint", "hue", "brightness", "darker", "brighter"),
}
"""Words of a question, and the event that it asks for."""
TEXTS = {
    "cut": "The picture becomes another at {moment:.1f} s.",
    "object": "Something in the picture appears or vanishes at {moment:.1f} s.",
    "drift": "The colour drifts from {start:.1f} s to {end:.1f} s.",
}
NOTHING = "Nothing of the kind was found in the video."


class CurveThinker(Thinker):
    """Finds cuts, objects that appear or vanish, and drifts of colour."""

    def begin(self, question: str, video: Video) -> None:
        asked = question.lower()
        self.kinds = {kind for kind, words in WORDS.items() if any(word in asked for word in words)}
        self.video = video
        self.skimmed: Features | None = None
        self.event: Event | None = None

    def think(self, seen: Look | ToolError, calls_left: int) -> Call | Answer:
        if isinstance(seen, ToolError):  # no window of ours is outside
            raise UserError(f"CurveThinker asked for a window that was refused: {seen}")
        if self.skimmed is None:
            return self._first(seen, calls_left)
        if self.event is not None and self.event.kind != "drift":
            self.event = self.event.narrowed(features(seen))
        return self._next(calls_left)

    def _first(self, skimmed: Look, calls_left: int) -> Call | Answer:
        if len(skimmed.times) < FEWEST:
            raise UserError(
                f"The video is {self.video.seconds:.1f} s long, {len(skimmed.times)} samples at one a second; "
                f"CurveThinker needs {FEWEST}. Take a longer video."
            )
        self.skimmed = features(skimmed)
        found = [event for event in events(self.skimmed) if not self.kinds or event.kind in self.kinds]
        if not found:
            return Answer("No curve has a change point of the kind that is asked for.", NOTHING)
        self.event = found[0]
        return self._next(calls_left, first=True)

    def _next(self, calls_left: int, first: bool = False) -> Call | Answer:
        event = self.event
        assert event is not None
        start, end = self._interval(event)
        sharp = event.kind == "drift" or event.end - event.start <= SHARP
        if calls_left and (first or not sharp):
            return Call.of(event.thought, start, end)
        text = TEXTS[event.kind].format(start=start, end=end, moment=(event.start + event.end) / 2)
        return Answer(event.thought, text, (start, end))

    def _interval(self, event: Event) -> Interval:
        """Of an event: from onset to end of a drift, a second on each side of a moment."""
        start, end = event.start, event.end
        if event.kind != "drift":
            moment = (event.start + event.end) / 2
            start, end = moment - SIDE, moment + SIDE
        return round(max(0.0, start), 3), round(min(self.video.seconds, end), 3)
