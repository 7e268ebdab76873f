"""Training data: clips whose motion is known."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from rollforge.ranges import Checked, Count, CountFromZero, Range
from rollforge_motion.truth import textured, world

Domain = Literal["world", "textures"]


class MovingWorld(Checked, Dataset[dict[str, Any]]):
    """Pairs of frames of the procedural world ``[2, H, W, 3]`` and the true ``flow`` between them ``[H, W, 2]``.

    The two frames are crops at different places of half of the pairs, so that the ground moves too.

    Args:
        furthest: how many frames apart two frames are at most.
        crop: height and width of a crop in pixels.
        shift: how far apart the places of two crops are at most, in pixels each way.
        pairs: in an epoch; captions held out for tests never occur.
        seed: of scenes, times and places.
        domain: the world, or its motion in other textures.
    """

    def __init__(
        self,
        furthest: Count = 8,
        crop: Annotated[int, Range(16, 56, step=8)] = 48,
        shift: Annotated[int, Range(0, 8)] = 5,
        pairs: Count = 1_000_000,
        seed: CountFromZero = 0,
        domain: Domain = "world",
    ) -> None:
        from rollforge.data.world import all_scenes, held_out

        self.furthest, self.crop, self.shift, self.pairs, self.seed = furthest, crop, shift, pairs, seed
        self.clip = textured if domain == "textures" else world
        self.scenes = [scene for scene in all_scenes() if not held_out(scene)]

    def __len__(self) -> int:
        return self.pairs

    def __getitem__(self, index: int) -> dict[str, Any]:
        drawn = np.random.default_rng((self.seed, index))
        scene = self.scenes[drawn.integers(len(self.scenes))]
        apart = int(drawn.integers(1, self.furthest + 1))
        video, motion = self.clip(scene, int(drawn.integers(2**31)), apart + 1)
        move = drawn.integers(-self.shift, self.shift + 1, 2) if drawn.random() < 0.5 else np.zeros(2, np.int64)
        room = video.shape[1] - self.crop - np.abs(move)
        first = drawn.integers(0, room + 1) + np.maximum(move, 0)  # x, y
        places = first, first - move  # what stands still has moved by ``move``
        pair = [self._cut(video[n], place) for n, place in zip((0, apart), places, strict=True)]
        flow = self._cut(motion.flow(0, apart), first) + move.astype(np.float32)
        return {"video": torch.from_numpy(np.stack(pair)), "flow": torch.from_numpy(flow), "caption": scene.caption}

    def _cut(self, picture: Any, place: Any) -> Any:
        x, y = place
        return picture[y : y + self.crop, x : x + self.crop]
