"""The procedural world: shaded shapes that drift and bounce over a landscape, captioned."""

from rollforge.data.world.grammar import SHAPES, WORDS, Scene, all_scenes, held_out
from rollforge.data.world.render import FAR, SIZE, SKY_TINT, SOIL_TINT, Truth, background, render, soil_and_sky, sprite

__all__ = [
    "FAR",
    "SHAPES",
    "SIZE",
    "SKY_TINT",
    "SOIL_TINT",
    "WORDS",
    "Scene",
    "Truth",
    "all_scenes",
    "background",
    "held_out",
    "render",
    "soil_and_sky",
    "sprite",
]
