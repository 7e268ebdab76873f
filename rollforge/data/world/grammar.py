"""What can be said about the world: ``a red box [and a green cone] over snow at day``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import product

from rollforge.errors import UserError, nearest

COLOURS = ("red", "yellow", "green", "blue", "purple")
SHAPES = ("ball", "box", "cone")
GROUNDS = ("grass", "sand", "snow")
TIMES = ("day", "dusk", "night")
WORDS = {"colour": COLOURS, "shape": SHAPES, "ground": GROUNDS, "time": TIMES}

Thing = tuple[str, str]


@dataclass(frozen=True)
class Scene:
    """One or two things, each ``(colour, shape)`` and of different colours, the nearer first; the ground; the time."""

    things: tuple[Thing, ...]
    ground: str
    time: str

    @property
    def caption(self) -> str:
        """The scene as a sentence."""
        things = " and ".join(f"a {colour} {shape}" for colour, shape in self.things)
        return f"{things} over {self.ground} at {self.time}"

    @classmethod
    def parse(cls, text: str) -> Scene:
        """Reads a caption. Raises ``UserError`` with the vocabulary for anything that the world cannot show."""
        words = text.lower().replace(",", " ").replace(".", " ").split()
        if [word for word in words if word in ("over", "at")] != ["over", "at"]:
            raise _unsaid(text, "it does not have the form of a caption")
        things, rest = _split(words, "over")
        ground, time = _split(rest, "at")
        pairs = [_thing(text, part) for part in _parts(things)]
        if len(pairs) > 2 or len({colour for colour, _ in pairs}) != len(pairs):
            raise _unsaid(text, "there can be one thing or two of different colours")
        return cls(tuple(pairs), _word(text, "ground", ground), _word(text, "time", time))


@cache
def all_scenes() -> tuple[Scene, ...]:
    """Every scene that can be said, in a fixed order."""
    things = list(product(COLOURS, SHAPES))
    pairs = [(near, far) for near, far in product(things, things) if near[0] != far[0]]
    told: Iterable[tuple[Thing, ...]] = [*((thing,) for thing in things), *pairs]
    return tuple(Scene(thing, ground, time) for thing, ground, time in product(told, GROUNDS, TIMES))


def held_out(scene: Scene) -> bool:
    """Whether training never sees this scene: about one in ten, decided by the caption alone."""
    return blake2b(scene.caption.encode(), digest_size=2).digest()[0] < 26


def _split(words: list[str], at: str) -> tuple[list[str], list[str]]:
    place = words.index(at)
    return words[:place], words[place + 1 :]


def _parts(words: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "and":
            parts.append([])
        elif word not in ("a", "an", "the"):
            parts[-1].append(word)
    return parts


def _thing(text: str, words: list[str]) -> Thing:
    if len(words) != 2:
        raise _unsaid(text, f"{' '.join(words) or 'nothing'!r} is not a colour and a shape")
    return _word(text, "colour", words[:1]), _word(text, "shape", words[1:])


def _word(text: str, kind: str, words: list[str]) -> str:
    if len(words) != 1 or words[0] not in WORDS[kind]:
        said = " ".join(words)
        close = nearest(said, WORDS[kind]).strip(" ?").lower()
        raise _unsaid(text, f"{said or 'nothing'!r} is not a {kind}" + (f" ({close}?)" if said and close else ""))
    return words[0]


def _unsaid(text: str, why: str) -> UserError:
    lists = "; ".join(f"{kind}: {', '.join(words)}" for kind, words in WORDS.items())
    return UserError(
        f"Pocket cannot draw {text!r}: {why}; "
        f"it knows 'a COLOUR SHAPE [and a COLOUR SHAPE] over GROUND at TIME' with {lists}."
    )
