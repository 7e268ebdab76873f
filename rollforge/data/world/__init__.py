"""The procedural world: shaded shapes that drift and bounce over a landscape, captioned."""

from rollforge.data.world.grammar import WORDS, Scene, all_scenes, held_out
from rollforge.data.world.render import SIZE, Truth, render

__all__ = ["SIZE", "WORDS", "Scene", "Truth", "all_scenes", "held_out", "render"]
