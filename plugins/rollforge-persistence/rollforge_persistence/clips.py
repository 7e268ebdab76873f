"""Training data: rho clips of one video, at most a gap apart."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from rollforge.data import VideoClips
from rollforge.data.clips import Epoch, cover
from rollforge.errors import UserError
from rollforge.ranges import Checked, Count, CountFromZero, Range, UserPath
from rollforge_persistence.encoder import SIZE

log = logging.getLogger(__name__)

CLIP, STRIDE = 4, 2
"""Frames of a clip, and how far apart they are in the video."""
Rho = Annotated[int, Range(1, 64)]
Length = Annotated[int, Range(1, 1000)]
Clip = dict[str, Any]


def span(clip: int, stride: int) -> int:
    """Frames of the video that a clip covers."""
    return (clip - 1) * stride + 1


def times(frames: int, clip: int, stride: int, rho: int, gap: int | None, drawn: np.random.Generator) -> list[range]:
    """The frames of ``rho`` clips of a video. Their starts are uniform in a window of ``gap``, which is anywhere."""
    latest = frames - span(clip, stride)
    gap = latest if gap is None else gap
    first = int(drawn.integers(latest - gap + 1))
    starts = (first + int(each) for each in drawn.integers(gap + 1, size=rho))
    return [range(start, start + span(clip, stride), stride) for start in starts]


class WorldPairs(Checked, Dataset[Clip]):
    """Clips of one video of the procedural world, one after the other, ``[rho clip, H, W, 3]``.

    Args:
        rho: clips of each video.
        gap: frames between the starts of two of them at most. Default: as many as the video allows.
        clip: frames of a clip.
        stride: takes every n-th frame of the video.
        frames: frames of a video.
        videos: videos of an epoch; captions held out for tests never occur.
        seed: of scenes and times.
        tinted: whether sky and soil have random tints. Where they have, the tint alone identifies a video.

    Raises:
        UserError: where a video is shorter than a clip and the gap.
    """

    def __init__(
        self,
        rho: Rho = 2,
        gap: CountFromZero | None = None,
        clip: Length = CLIP,
        stride: Count = STRIDE,
        frames: Annotated[int, Range(1, 10_000)] = 128,
        videos: Epoch = 1_000_000,
        seed: CountFromZero = 0,
        tinted: bool = False,
    ) -> None:
        from rollforge.data.world import all_scenes, held_out

        if frames < span(clip, stride) + (gap or 0):
            raise UserError(
                f"WorldPairs: a video of {frames} frames is shorter than a clip of {clip} frames, {stride} apart, and "
                f"a gap of {gap or 0}; raise frames, or lower gap."
            )
        self.rho, self.gap, self.clip, self.stride, self.frames = rho, gap, clip, stride, frames
        self.count, self.seed, self.tinted = videos, seed, tinted
        self.scenes = [scene for scene in all_scenes() if not held_out(scene)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Clip:
        from rollforge.data.world import render

        drawn = np.random.default_rng((self.seed, index))
        scene = self.scenes[drawn.integers(len(self.scenes))]
        shown = times(self.frames, self.clip, self.stride, self.rho, self.gap, drawn)
        flat = [time for each in shown for time in each]
        video, _ = render(scene, int(drawn.integers(2**31)), self.frames, self.tinted, SIZE, flat)
        return {"video": torch.from_numpy(video), "caption": scene.caption}


class VideoPairs(Checked, Dataset[Clip]):
    """Clips of one video out of a folder, as ``WorldPairs`` gives them of the world.

    A video that is too short or cannot be read is left out, with a warning for one that cannot be read. If that is
    noticed only when a clip of it is read, the next video replaces it.

    Args:
        folder: where the videos are, at any depth.
        rho: clips of each video.
        gap: frames between the starts of two of them at most. Default: as many as the video allows.
        clip: frames of a clip.
        stride: takes every n-th frame of a video.

    Raises:
        UserError: where there is no folder, or no video in it that is as long as a clip and the gap.
    """

    def __init__(
        self,
        folder: UserPath,
        rho: Rho = 2,
        gap: CountFromZero | None = None,
        clip: Length = CLIP,
        stride: Count = STRIDE,
    ) -> None:
        self.rho, self.gap, self.clip, self.stride = rho, gap, clip, stride
        self.long = long = span(clip, stride) + (gap or 0)
        self.unreadable: set[Path] = set()
        try:
            found = VideoClips(folder, long, (SIZE, SIZE))
        except UserError as error:
            problem = str(error).removeprefix("VideoClips: ")
            raise UserError(f"VideoPairs (a clip and the gap take {long} frames): {problem}") from error
        self.files = list(dict.fromkeys(file for file, _ in found.starts))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Clip:
        for number in range(index, index + len(self)):
            file: Path = self.files[number % len(self)]
            try:
                return self._pairs(file)
            except UserError as error:
                if file not in self.unreadable:
                    log.warning("%s It is left out of the training clips.", error)
                self.unreadable.add(file)
        raise UserError("VideoPairs: not one of the videos can be read, as the warnings say.")

    def _pairs(self, file: Path) -> Clip:
        from rollforge.video.reader import probe, read_clip

        frames = probe(file).frames
        if frames < self.long:
            raise UserError(f"{file} has become shorter: {frames} frames, and a clip and the gap take {self.long}.")
        drawn = np.random.default_rng(int(torch.randint(2**31, ())))  # seeded with epoch and index by the loader
        shown = times(frames, self.clip, self.stride, self.rho, self.gap, drawn)
        clips = [cover(read_clip(file, each.start, self.clip, self.stride), (SIZE, SIZE)) for each in shown]
        return {"video": torch.from_numpy(np.concatenate(clips)), "caption": "", "source": str(file)}
