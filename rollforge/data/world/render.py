"""Draws scenes: a gradient sky with sun or moon, hills, and shaded objects that drift and bounce.

Everything that the caption leaves open (where hills and sun are, the tints of sky and soil, how the objects move) comes
from the seed. Objects keep their size, colour and lighting, and never leave the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from rollforge.data.world.grammar import Scene

SIZE = 64  # pixels, both ways; all lengths below are in these
RADIUS = 10.0  # half the size of a thing
SPEED = (0.4, 0.9)  # pixels per frame
PATCH = 24  # pixels, both ways, that surely hold a thing and its soft edge at this size
Image = NDArray[np.floating]

PAINT = {
    "red": (222, 40, 40),
    "yellow": (250, 214, 10),
    "green": (0, 165, 75),
    "blue": (35, 70, 215),
    "purple": (168, 60, 215),
}
SKY = {
    "day": ((105, 168, 235), (205, 228, 246)),
    "dusk": ((72, 52, 112), (250, 155, 95)),
    "night": ((10, 14, 42), (42, 52, 96)),
}
LIGHT = {"day": (1.0, 1.0, 1.0), "dusk": (0.86, 0.66, 0.62), "night": (0.34, 0.40, 0.56)}
LAMP = {"day": (255, 250, 215), "dusk": (255, 215, 120), "night": (228, 232, 240)}
FAR = 0.80  # brightness of the far hills, of that of the near ground
SKY_TINT, SOIL_TINT = 0.20, 0.14  # length of the largest tint, in 0..1: colours of like brightness; 0.3 of it at least
SOIL = {"grass": (142, 172, 84), "sand": (214, 182, 126), "snow": (236, 241, 247)}


@dataclass(frozen=True)
class Truth:
    """What a clip shows: the landscape without objects, float32 ``[H, W, 3]`` in 0..1, and the objects' centres
    ``[T, things, 2]`` in pixels (x, y), in the order of the caption."""

    background: Image
    centres: Image


def render(
    scene: Scene, seed: int, frames: int, tinted: bool = True, size: int = SIZE, shown: Sequence[int] | None = None
) -> tuple[NDArray[np.uint8], Truth]:
    """Draws a clip, uint8 ``[T, size, size, 3]``, and returns its ground truth. The same seed draws the same clip.

    Without its tints it is the same clip but for them. At another size it is the same scene, with edges as sharp as
    its pixels; the truth is in pixels of that size. ``shown`` draws these frames alone.
    """
    drawn = np.random.default_rng(seed)
    ground = background(scene, drawn, tinted, size)
    centres = np.stack([_path(drawn, frames) for _ in scene.things], axis=1)
    centres = centres if shown is None else centres[np.asarray(shown)]
    video = np.repeat(ground[None], len(centres), axis=0)
    for n in reversed(range(len(scene.things))):
        _paste(video, *scene.things[n], centres[:, n])
    return (video * 255).round().astype(np.uint8), Truth(ground, centres * np.float32(size / SIZE))


def background(scene: Scene, drawn: np.random.Generator, tinted: bool = True, size: int = SIZE) -> Image:
    """The landscape, float32 ``[size, size, 3]`` in 0..1."""
    x, y = _grid(size)
    sharp = size / SIZE
    soil, sky = soil_and_sky(scene, size)
    if tinted:
        (own,) = drawn.spawn(1)  # so that everything else is the same without them
        sky = np.clip(sky + _tint(own, SKY_TINT), 0, 1)
        soil = np.clip(soil + _tint(own, SOIL_TINT), 0, FAR)
    image = np.repeat(sky[:, None], size, axis=1)
    sun = np.array([drawn.uniform(10, 54), drawn.uniform(8, 14)])
    disc = _inside(5.0 - np.hypot(x - sun[0], y - sun[1]), sharp)
    image += disc[..., None] * (np.array(LAMP[scene.time], np.float32) / 255 - image)
    phase, height = drawn.uniform(0, 2 * np.pi), drawn.uniform(2, 5)
    far = 38 + height * np.sin(2 * np.pi * x / 58 + phase)
    near = 48 + 2.0 * np.sin(2 * np.pi * x / 90 + 2 * phase)
    image += _inside(y - far, sharp)[..., None] * (soil - image)
    image += _inside(y - near, sharp)[..., None] * (soil / FAR - image)
    return image.astype(np.float32)


def soil_and_sky(scene: Scene, size: int = SIZE) -> tuple[Image, Image]:
    """The colour of the far hills, ``[3]``, and of the sky in each row, ``[H, 3]``, in 0..1, before they are tinted."""
    y = _grid(size)[1][:, :1]
    high, low = (np.array(paint, np.float32) / 255 for paint in SKY[scene.time])
    soil = np.array(SOIL[scene.ground], np.float32) / 255 * np.array(LIGHT[scene.time], np.float32)
    return soil * np.float32(FAR), high + (low - high) * np.clip(y / 40, 0, 1)


def sprite(colour: str, shape: str, centres: Image) -> tuple[Image, Image]:
    """An object at centres ``[T, 2]``: colours ``[T, H, W, 3]`` and coverage ``[T, H, W]``, both in 0..1."""
    x, y = _grid(SIZE)
    return _shaded(colour, shape, x - centres[:, 0, None, None], y - centres[:, 1, None, None])


def _tint(drawn: np.random.Generator, most: float) -> Image:
    """What to add to red, green and blue, ``[3]``: their sum stays, the hue is any, the length 0.3 to 1 of ``most``."""
    angle, length = drawn.uniform(0, 2 * np.pi), most * drawn.uniform(0.3, 1)
    to_red, to_green = np.array([2, -1, -1]) / np.sqrt(6), np.array([0, 1, -1]) / np.sqrt(2)
    return (length * (np.cos(angle) * to_red + np.sin(angle) * to_green)).astype(np.float32)


def _paste(video: Image, colour: str, shape: str, centres: Image) -> None:
    """Draws an object into ``[T, H, W, 3]``, only where it is: the same picture as ``sprite``, sooner."""
    size = video.shape[1]
    sharp = size / SIZE
    patch = min(size, int(np.ceil(2 * RADIUS * sharp)) + PATCH - round(2 * RADIUS))
    corners = np.clip(np.floor(centres * sharp).astype(int) - patch // 2, 0, size - patch)
    columns = corners[:, 0, None, None] + np.arange(patch)
    rows = corners[:, 1, None, None] + np.arange(patch)[:, None]
    x, y = (((each + 0.5) / sharp).astype(np.float32) for each in (columns, rows))
    paint, shade = _shaded(colour, shape, x - centres[:, 0, None, None], y - centres[:, 1, None, None], sharp)
    where = np.arange(len(video))[:, None, None], rows, columns
    under = video[where]
    video[where] = under + shade[..., None] * (paint - under)


def _shaded(colour: str, shape: str, x: Image, y: Image, sharp: float = 1.0) -> tuple[Image, Image]:
    """Colours ``[T, h, w, 3]`` and coverage ``[T, h, w]`` of an object at offsets from its centre, in pixels of 64.

    ``sharp`` is how many pixels there are for one of those.
    """
    u, v = x / RADIUS, y / RADIUS
    if shape == "ball":
        cover = _inside((0.98 - np.hypot(u, v)) * RADIUS, sharp)
        light = 1.16 - 0.62 * np.clip(np.hypot(u + 0.35, v + 0.40), 0, 1.4)
    elif shape == "box":
        cover = _inside((0.86 - np.maximum(np.abs(u), np.abs(v))) * RADIUS, sharp)
        light = np.where(v < -0.42, 1.18, 0.92 - 0.22 * u)
    else:
        cover = _inside(np.minimum((0.92 - v) * RADIUS, (0.5 * (v + 0.98) - np.abs(u)) * RADIUS * 0.9), sharp)
        light = 0.95 - 0.40 * np.clip(u / np.maximum(0.5 * (v + 0.98), 0.1), -1, 1)
    paint = np.array(PAINT[colour], np.float32) / 255
    return np.clip(paint * light[..., None].astype(np.float32), 0, 1), cover.astype(np.float32)


def _path(drawn: np.random.Generator, frames: int) -> Image:
    """Centres ``[T, 2]`` of an object that drifts and bounces off the walls."""
    room = SIZE - 2 * RADIUS
    start, angle = drawn.uniform(0, room, 2), drawn.uniform(0, 2 * np.pi)
    velocity = drawn.uniform(*SPEED) * np.array([np.cos(angle), np.sin(angle)])
    travelled = start + velocity * np.arange(frames)[:, None]
    folded = room - np.abs(np.mod(travelled, 2 * room) - room)
    return (folded + RADIUS).astype(np.float32)


def _inside(distance: NDArray[np.floating], sharp: float = 1.0) -> Image:
    """Anti-aliased coverage of a signed distance in pixels of 64, positive inside."""
    coverage: Image = np.clip(distance * np.float32(sharp) + 0.5, 0, 1)
    return coverage


@cache
def _grid(size: int) -> tuple[Image, Image]:
    """Centres x and y of ``size`` pixels both ways, in pixels of 64, ``[size, size]`` each."""
    y, x = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / np.float32(size / SIZE)
    return x, y
