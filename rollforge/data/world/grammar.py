"""The grammar of captions: ``a [red] box [and a [green] cone] [over snow] [at day]``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import product

import numpy as np

from rollforge.errors import UserError, nearest

COLOURS = ("red", "yellow", "green", "blue", "purple")
SHAPES = ("ball", "box", "cone")
GROUNDS = ("grass", "sand", "snow")
TIMES = ("day", "dusk", "night")
WORDS = {"colour": COLOURS, "shape": SHAPES, "ground": GROUNDS, "time": TIMES}

Thing = tuple[str, str]


@dataclass(frozen=True)
class Scene:
    """One or two objects, each ``(colour, shape)`` and of different colours, the nearer first; the ground; the time.

    A caption may leave out colours, the ground or the time; they are empty then.
    """

    things: tuple[Thing, ...]
    ground: str
    time: str

    @property
    def caption(self) -> str:
        """The scene as a sentence."""
        text = " and ".join(f"a {colour} {shape}" if colour else f"a {shape}" for colour, shape in self.things)
        if self.ground:
            text += f" over {self.ground}"
        return f"{text} at {self.time}" if self.time else text

    @property
    def complete(self) -> bool:
        """Whether nothing is left out."""
        return all((*(colour for colour, _ in self.things), self.ground, self.time))

    def hushed(self, drawn: np.random.Generator) -> Scene:
        """The same scene with each colour, the ground and the time left out with probability 0.5."""
        coins = iter(drawn.integers(2, size=len(self.things) + 2))
        things = tuple((colour if next(coins) else "", shape) for colour, shape in self.things)
        return Scene(things, self.ground if next(coins) else "", self.time if next(coins) else "")

    @classmethod
    def parse(cls, text: str) -> Scene:
        """Reads a caption. Raises ``UserError`` with the vocabulary for anything that the world cannot show."""
        words = text.lower().replace(",", " ").replace(".", " ").split()
        if [word for word in words if word in ("over", "at")] not in ([], ["over"], ["at"], ["over", "at"]):
            raise _unsaid(text, "it does not have the form of a caption")
        words, time = _split(words, "at")
        things, ground = _split(words, "over")
        pairs = [_thing(text, part) for part in _parts(things)]
        colours = [colour for colour, _ in pairs if colour]
        if len(pairs) > 2 or len(set(colours)) != len(colours):
            raise _unsaid(text, "there can be one thing or two of different colours")
        said_ground, said_time = (
            "" if words is None else _word(text, kind, words) for kind, words in (("ground", ground), ("time", time))
        )
        return cls(tuple(pairs), said_ground, said_time)


@cache
def all_scenes() -> tuple[Scene, ...]:
    """Every complete scene, in a fixed order."""
    things = list(product(COLOURS, SHAPES))
    pairs = [(near, far) for near, far in product(things, things) if near[0] != far[0]]
    contents: Iterable[tuple[Thing, ...]] = [*((thing,) for thing in things), *pairs]
    return tuple(Scene(thing, ground, time) for thing, ground, time in product(contents, GROUNDS, TIMES))


def held_out(scene: Scene) -> bool:
    """Whether training never sees this scene: about one in ten, decided by the caption alone."""
    return blake2b(scene.caption.encode(), digest_size=2).digest()[0] < 26


def _split(words: list[str], at: str) -> tuple[list[str], list[str] | None]:
    """What comes before and after a word, ``None`` where it does not occur."""
    place = words.index(at) if at in words else len(words)
    return words[:place], words[place + 1 :] if place < len(words) else None


def _parts(words: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "and":
            parts.append([])
        elif word not in ("a", "an", "the"):
            parts[-1].append(word)
    return parts


def _thing(text: str, words: list[str]) -> Thing:
    if not 1 <= len(words) <= 2:
        raise _unsaid(text, f"{' '.join(words) or 'nothing'!r} is not a colour and a shape")
    colour = _word(text, "colour", words[:1]) if len(words) == 2 else ""
    return colour, _word(text, "shape", words[-1:])


def _word(text: str, kind: str, words: list[str]) -> str:
    if len(words) != 1 or words[0] not in WORDS[kind]:
        phrase = " ".join(words)
        close = nearest(phrase, WORDS[kind]).strip(" ?").lower()
        raise _unsaid(text, f"{phrase or 'nothing'!r} is not a {kind}" + (f" ({close}?)" if phrase and close else ""))
    return words[0]


def _unsaid(text: str, why: str) -> UserError:
    lists = "; ".join(f"{kind}: {', '.join(words)}" for kind, words in WORDS.items())
    return UserError(
        f"Pocket cannot draw {text!r}: {why}; "
        f"it knows 'a [COLOUR] SHAPE [and a [COLOUR] SHAPE] [over GROUND] [at TIME]' with {lists}."
    )
