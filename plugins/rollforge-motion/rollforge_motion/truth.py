"""The true motion of the procedural world, and other pictures of the same motion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rollforge.data.world import SIZE, Scene, render, sprite

Frames = NDArray[np.uint8]
WAVES = 10


@dataclass(frozen=True)
class Motion:
    """What moves in a clip: the centres of the things ``[T, things, 2]`` in pixels, and which is seen where.

    ``owner`` is ``[T, H, W]``: the number of the thing that covers at least half of a pixel, nearest first; -1 for the
    ground.
    """

    centres: NDArray[np.floating]
    owner: NDArray[np.int64]

    def flow(self, first: int, second: int) -> NDArray[np.float32]:
        """How far what each pixel of a frame shows has moved in another, ``[H, W, 2]``. The ground stands still.

        Of what is hidden in the other frame too.
        """
        moved = np.concatenate([self.centres[second] - self.centres[first], np.zeros((1, 2))])
        return moved[self.owner[first]].astype(np.float32)


def world(scene: Scene, seed: int, frames: int) -> tuple[Frames, Motion]:
    """A clip of the world, uint8 ``[T, H, W, 3]``, and its motion."""
    video, truth = render(scene, seed, frames)
    return video, _motion(_covers(scene, truth.centres), truth.centres)


def textured(scene: Scene, seed: int, frames: int) -> tuple[Frames, Motion]:
    """The motion and shapes of the same clip in other textures: waves of random colours that move with each thing."""
    _, truth = render(scene, seed, frames)
    covers, drawn = _covers(scene, truth.centres), np.random.default_rng((seed, 1))
    still = np.zeros((frames, 2), np.float32)
    video = _waves(drawn, still)
    for n in reversed(range(len(covers))):
        video += covers[n][..., None] * (_waves(drawn, truth.centres[:, n]) - video)
    return (video * 255).round().clip(0, 255).astype(np.uint8), _motion(covers, truth.centres)


def _covers(scene: Scene, centres: NDArray[np.floating]) -> list[NDArray[np.floating]]:
    """How much of each pixel each thing covers, ``[T, H, W]``, the nearer things first."""
    return [sprite(*thing, centres[:, n])[1] for n, thing in enumerate(scene.things)]


def _motion(covers: list[NDArray[np.floating]], centres: NDArray[np.floating]) -> Motion:
    owner = np.full(covers[0].shape, -1)
    for n in reversed(range(len(covers))):
        owner[covers[n] >= 0.5] = n
    return Motion(centres, owner)


def _waves(drawn: np.random.Generator, centres: NDArray[np.floating]) -> NDArray[np.float32]:
    """A sum of sines ``[T, H, W, 3]`` in 0..1, of 5 to 32 pixels in length, that moves with ``centres``."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32) + 0.5
    u, v = x - centres[:, 0, None, None], y - centres[:, 1, None, None]
    shown = np.tile(drawn.uniform(0.3, 0.7, 3), (len(centres), SIZE, SIZE, 1))
    for _ in range(WAVES):
        angle, length = drawn.uniform(0, 2 * np.pi), np.exp(drawn.uniform(np.log(5), np.log(32)))
        phase = 2 * np.pi * ((u * np.cos(angle) + v * np.sin(angle)) / length + drawn.random())
        shown += np.sin(phase)[..., None] * drawn.uniform(-0.09, 0.09, 3)
    return shown.clip(0, 1).astype(np.float32)
