"""Clips to train on: the procedural world, or a folder of the user's own videos."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from rollforge.data.captions import Captions
from rollforge.data.tar_shards import unpacked
from rollforge.errors import UserError
from rollforge.files.reading import listed_below
from rollforge.ranges import Checked, Count, CountFromZero, Range, Share, UserPath
from rollforge.video import SUFFIXES

log = logging.getLogger(__name__)

TAR = ".tar"
Frames = Annotated[int, Range(1, 100_000)]  # a clip is held in memory
Pixels = Annotated[int, Range(1, 16_384)]
Epoch = Annotated[int, Range(1, 10_000_000)]  # their order is held in memory
Clip = dict[str, Any]  # "video": uint8 [T, H, W, 3], "caption": str, "source": str where it is from a file


class WorldClips(Checked, Dataset[Clip]):
    """Clips of the procedural world, rendered as they are asked for; captions held out for tests never occur.

    Args:
        frames: pixel frames in a clip.
        clips: clips in an epoch; clip n is the same on every machine.
        seed: of the captions and the scenes.
        hushed: share of the clips with incomplete captions: each colour, the ground and the time are left out with
            probability 0.5. Only the history determines what a caption leaves out.
        tinted: whether sky and soil have random tints, which no caption states.
        size: height and width in pixels; another size shows the same scenes.
    """

    def __init__(
        self,
        frames: Frames = 21,
        clips: Epoch = 1_000_000,
        seed: CountFromZero = 0,
        hushed: Share = 0.0,
        tinted: bool = True,
        size: Annotated[int, Range(8, 1024)] = 64,
    ) -> None:
        from rollforge.data.world import all_scenes, held_out

        self.size = size
        self.frames, self.clips, self.seed, self.hushed, self.tinted = frames, clips, seed, hushed, tinted
        self.scenes = [scene for scene in all_scenes() if not held_out(scene)]

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, index: int) -> Clip:
        from rollforge.data.world import render

        drawn = np.random.default_rng((self.seed, index))
        scene = self.scenes[drawn.integers(len(self.scenes))]
        video, _ = render(scene, int(drawn.integers(2**31)), self.frames, self.tinted, self.size)
        if self.hushed and drawn.random() < self.hushed:
            scene = scene.hushed(drawn)
        return {"video": torch.from_numpy(video), "caption": scene.caption}


class VideoClips(Checked, Dataset[Clip]):
    """Clips cut from a folder of videos, or from a WebDataset tar.

    The caption of ``name.mp4`` is the text in ``name.txt``, or in ``name.json`` under ``caption``, unless ``captions``
    names a file with all of them. A video that cannot be read is named in a warning and left out. If that is noticed
    only when a clip of it is read, the next clip replaces it.

    Args:
        folder: where the videos are, at any depth; or a tar archive of videos and captions, or a folder of such. An
            archive is unpacked once, into the user's cache folder.
        frames: pixel frames in a clip.
        size: height and width in pixels; frames are resized to cover it and cropped at the centre.
        stride: takes every n-th frame.
        captions: a JSON lines or CSV file with the names of videos and their captions.

    Raises:
        UserError: where there is no folder, or no clip in it.
    """

    SUFFIXES = SUFFIXES

    def __init__(
        self,
        folder: UserPath,
        frames: Frames,
        size: tuple[Pixels, Pixels],
        stride: Count = 1,
        captions: UserPath | None = None,
    ) -> None:
        root = Path(folder)
        if not root.is_dir() and not (root.is_file() and root.suffix.lower() == TAR):
            raise UserError(f"VideoClips: there is no folder {folder}.")
        self.folder, self.frames, self.size, self.stride = root, frames, size, stride
        self.captions: dict[Path, Captions] = {}  # by the folder of the videos
        named = Path(captions) if captions else None
        files = [file for place in self._folders(root) for file in self._listed(place, named)]
        span = (frames - 1) * stride + 1
        self.unreadable: dict[Path, str] = {}  # a sentence for each
        self.alone = len(files) == 1
        self.starts = [(file, start) for file in files for start in range(0, self._length(file) - span + 1, span)]
        if self.alone and self.unreadable:
            raise UserError(f"VideoClips: {self.unreadable[files[0]]}")
        if not self.starts:
            raise UserError(
                f"VideoClips: {folder} holds no clip of {span} frames in {len(files)} videos, of which "
                f"{len(self.unreadable)} cannot be read (looked for {', '.join(SUFFIXES)})."
            )

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Clip:
        if not 0 <= index < len(self):
            raise IndexError(index)
        for number in range(
            index, index + len(self)
        ):  # depends on the files alone, so that a resumed fit sees the same
            file, _ = self.starts[number % len(self)]
            try:
                return self.clip(number % len(self))
            except UserError as error:
                self._warn(file, error)
        if self.alone:
            raise UserError(f"VideoClips: {self.unreadable[file]}")
        raise UserError(f"VideoClips: not one clip in {self.folder} can be read, as the warnings say.")

    def key(self, index: int) -> str:
        """What the frames of a clip depend on: the file by size and date, the place in it, and how it is cut."""
        file, start = self.starts[index]
        stat = file.stat()
        identity = (file.name, stat.st_size, stat.st_mtime_ns, start, self.frames, self.stride, tuple(self.size))
        return " ".join(map(str, identity))

    def caption(self, index: int) -> str:
        """The caption of a clip. Raises ``UserError`` where it cannot be read."""
        file, _ = self.starts[index]
        return next(found.of(file) for folder, found in self.captions.items() if file.is_relative_to(folder))

    def source(self, index: int) -> str:
        """Where a clip is from."""
        file, start = self.starts[index]
        return f"{file} from frame {start}"

    def clip(self, index: int) -> Clip:
        """The clip itself, never a replacement. Raises ``UserError`` where it cannot be read."""
        from rollforge.video.reader import read_clip

        file, start = self.starts[index]
        video = cover(read_clip(file, start, self.frames, self.stride), self.size)
        return {"video": torch.from_numpy(video), "caption": self.caption(index), "source": self.source(index)}

    @staticmethod
    def _folders(root: Path) -> list[Path]:
        """Where the videos lie: the folder itself, and those that its archives are unpacked in."""
        if root.is_file():
            return [unpacked(root, SUFFIXES)]
        folders = [root]
        for shard in listed_below(root, (TAR,), "archive"):
            try:
                folders.append(unpacked(shard, SUFFIXES))
            except UserError as error:
                log.warning("%s It is left out of the training clips.", error)
        return folders

    def _listed(self, folder: Path, captions: Path | None) -> list[Path]:
        """The videos below a folder, whose captions are read here where one file has them all."""
        files = listed_below(folder, SUFFIXES, "video")
        self.captions[folder] = found = Captions(folder, captions)
        if missing := found.missing(files):
            log.warning(
                "%s has no caption for %s of %s videos, such as %s.", captions, len(missing), len(files), missing[0]
            )
        return files

    def _length(self, file: Path) -> int:
        """Frames of a video; 0 where it cannot be read."""
        from rollforge.video.reader import probe

        try:
            return probe(file).frames
        except UserError as error:
            self._warn(file, error)
            return 0

    def _warn(self, file: Path, error: UserError) -> None:
        if file not in self.unreadable and not self.alone:
            log.warning("%s It is left out of the training clips.", error)
        self.unreadable[file] = str(error)


def cover(video: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes uint8 ``[T, H, W, 3]`` until it covers ``size`` (height, width), then crops at the centre."""
    from PIL import Image

    height, width = size
    scale = max(height / video.shape[1], width / video.shape[2])
    wide, high = round(video.shape[2] * scale), round(video.shape[1] * scale)
    left, top = (wide - width) // 2, (high - height) // 2
    frames = [Image.fromarray(frame).resize((wide, high), Image.Resampling.BICUBIC) for frame in video]
    return np.stack([np.asarray(frame.crop((left, top, left + width, top + height))) for frame in frames])
