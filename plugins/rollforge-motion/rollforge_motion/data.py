"""Training data: pairs of the procedural world with their motion, and clips of shifted domains without."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from rollforge.data.clips import Epoch
from rollforge.ranges import Checked, CountFromZero, NonNegative, Range, Share
from rollforge_motion.shift import NOISE, Domain, clip
from rollforge_motion.truth import world


class MovingWorld(Checked, Dataset[dict[str, Any]]):
    """Pairs of frames of the procedural world ``[2, H, W, 3]`` and the true ``flow`` between them ``[H, W, 2]``.

    Of half of the pairs the two frames are crops at different places, so that the ground moves too.

    Args:
        furthest: how many frames apart two frames are at most.
        crop: height and width of a crop in pixels.
        shift: how far apart the places of two crops are at most, in pixels each way.
        textures: share of pairs that are two crops of a smooth random texture instead, so that the network learns to
            compare pictures, and not only this world.
        pairs: in an epoch; captions held out for tests never occur.
        seed: of scenes, times and places.
    """

    def __init__(
        self,
        furthest: Annotated[int, Range(1, 1000)] = 8,
        crop: Annotated[int, Range(16, 56, step=8)] = 48,
        shift: Annotated[int, Range(0, 8)] = 5,
        textures: Share = 0.0,
        pairs: Epoch = 1_000_000,
        seed: CountFromZero = 0,
    ) -> None:
        self.furthest, self.crop, self.shift, self.textures = furthest, crop, shift, textures
        self.pairs, self.seed = pairs, seed
        self.scenes = _scenes()

    def __len__(self) -> int:
        return self.pairs

    def __getitem__(self, index: int) -> dict[str, Any]:
        drawn = np.random.default_rng((self.seed, index))
        if self.textures and drawn.random() < self.textures:
            return self._texture(drawn)
        scene = self.scenes[drawn.integers(len(self.scenes))]
        apart = int(drawn.integers(1, self.furthest + 1))
        video, motion = world(scene, int(drawn.integers(2**31)), apart + 1)
        move = self._move(drawn) if drawn.random() < 0.5 else np.zeros(2, np.int64)
        room = video.shape[1] - self.crop - np.abs(move)
        first = drawn.integers(0, room + 1) + np.maximum(move, 0)  # x, y
        places = first, first - move  # what stands still has moved by ``move``
        pair = [self._cut(video[n], place) for n, place in zip((0, apart), places, strict=True)]
        flow = self._cut(motion.flow(0, apart), first) + move.astype(np.float32)
        return {"video": torch.from_numpy(np.stack(pair)), "flow": torch.from_numpy(flow), "caption": scene.caption}

    def _texture(self, drawn: Any) -> dict[str, Any]:
        move, side = self._move(drawn), self.crop + 2 * self.shift
        cells = int(drawn.integers(4, side // 3))
        grid = torch.from_numpy(drawn.random((1, 3, cells, cells), np.float32))
        texture = interpolate(grid, (side, side), mode="bicubic").clamp(0, 1)[0]
        picture = (texture * 255).round().to(torch.uint8).permute(1, 2, 0)
        first = np.array([self.shift, self.shift])
        pair = [self._cut(picture, place) for place in (first, first - move)]
        flow = torch.from_numpy(move.astype(np.float32)).expand(self.crop, self.crop, 2).contiguous()
        return {"video": torch.stack(pair), "flow": flow, "caption": ""}

    def _move(self, drawn: Any) -> Any:
        return drawn.integers(-self.shift, self.shift + 1, 2)

    def _cut(self, picture: Any, place: Any) -> Any:
        x, y = place
        return picture[y : y + self.crop, x : x + self.crop]


class ShiftedWorld(Checked, Dataset[dict[str, Any]]):
    """Clips of a domain that the shipped network has not seen, without their motion, as a folder of videos would be.

    Args:
        domain: ``codec``, ``textures``, or ``world``.
        frames: pixel frames in a clip.
        noise: of ``codec``: standard deviation of the noise on the latents.
        clips: in an epoch; captions held out for tests never occur.
        seed: of captions and scenes.
    """

    def __init__(
        self,
        domain: Domain = "codec",
        frames: Annotated[int, Range(2, 1000)] = 9,
        noise: NonNegative = NOISE,
        clips: Epoch = 1_000_000,
        seed: CountFromZero = 0,
    ) -> None:
        self.domain, self.frames, self.noise, self.clips, self.seed = domain, frames, noise, clips, seed
        self.scenes = _scenes()

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, index: int) -> dict[str, Any]:
        drawn = np.random.default_rng((self.seed, index))
        scene = self.scenes[drawn.integers(len(self.scenes))]
        video, _ = clip(self.domain, scene, int(drawn.integers(2**31)), self.frames, self.noise)
        return {"video": torch.from_numpy(video), "caption": scene.caption}


def _scenes() -> list[Any]:
    """Those that training may see."""
    from rollforge.data.world import all_scenes, held_out

    return [scene for scene in all_scenes() if not held_out(scene)]
