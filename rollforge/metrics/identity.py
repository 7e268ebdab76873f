"""Whether a video of the procedural world still matches its opening, and not just its caption."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rollforge.data.world import Scene
from rollforge.errors import UserError
from rollforge.files.reading import MANIFEST, bare_name, read_json
from rollforge.metrics.landscape import Landscape
from rollforge.state import Stateful
from rollforge.video.reader import Frames, frames


class ThingColours(Stateful):
    """The colours of the captioned objects, against their mean in the opening.

    Args:
        opening: frames that are the reference, counted from the first.
    """

    def __init__(self, opening: int, things: int) -> None:
        self.opening, self.seen = opening, 0
        self.total, self.weight = torch.zeros(things, 3), torch.zeros(things, 1)

    def changed(self, colours: Tensor, found: Tensor) -> Tensor:
        """Mean absolute difference from the opening's, of the objects that are found here and in the opening: ``[T]``.

        ``colours [T, things, 3]`` are differences from the truth, ``found`` is ``[T, things]``. NaN in the opening
        itself, and where nothing can be compared.
        """
        first = slice(max(0, self.opening - self.seen))
        self.total += (colours[first] * found[first, :, None]).sum(dim=0)
        self.weight += found[first, :, None].sum(dim=0)
        self.seen += len(found[first])
        both = (found & (self.weight[:, 0] > 0)).float()
        distance = (colours - self.total / self.weight.clamp(min=1)).abs().mean(dim=2)
        changed = (distance * both).sum(dim=1) / both.sum(dim=1)
        changed[first] = torch.nan
        return changed


class Gap(Stateful):
    """How much nearer a video is to its own opening than to that of another video of the same caption.

    Args:
        scene: what both show.
        opening: frames that are the reference.
    """

    def __init__(self, scene: Scene, opening: int) -> None:
        self.known = False
        self.landscape = Landscape(scene, opening)
        self.own, self.others = (ThingColours(opening, len(scene.things)) for _ in range(2))

    def refer(self, video: Tensor, free: Tensor, found: Tensor, colours: Tensor) -> None:
        """Sets the opening of the other video; arguments as ``measured``."""
        self.landscape.changed(video, free, found.all(dim=1))
        self.others.changed(colours, found)
        self.known = True

    def measured(
        self, video: Tensor, free: Tensor, found: Tensor, colours: Tensor, landscape: Tensor
    ) -> dict[str, Tensor]:
        """Both gaps, ``[T]``: below 0 where the own opening is nearer.

        Args:
            video: ``[T, 3, h, w]`` at half resolution.
            free: ``[T, 1, h, w]``, pixels without objects.
            found: ``[T, things]``.
            colours: ``[T, things, 3]``, by how much those of the objects are off.
            landscape: ``[T]``, how unlike the own opening.
        """
        none = torch.zeros(len(video), dtype=torch.bool)  # no frame is added to the reference
        return {
            "landscape_gap": landscape - self.landscape.changed(video, free, none),
            "colour_gap": self.own.changed(colours, found) - self.others.changed(colours, found),
        }


def opening_of(folder: Path, prompt: str, count: int, size: tuple[int, int]) -> Tensor:
    """The first frames, uint8 ``[count, H, W, 3]``, of the video of a prompt in the folder of another run.

    Raises:
        UserError: for a folder that is not a finished run, has no such video, or a video of another size or too short.
    """
    found = read_json(folder / "manifest.json", MANIFEST, "file")
    videos = found.get("videos", []) if isinstance(found, dict) else []
    named = [each for each in videos if each.get("prompt") == prompt and each.get("complete")]
    if not named:
        raise UserError(
            f"WorldTruth.other is {folder}, which has no finished video of {prompt!r}; roll the same prompts there "
            "first, with another seed."
        )
    file = folder / bare_name(str(named[0]["file"]), folder)
    taken = list(islice(_scaled(file, size), count))
    if len(taken) < count:
        raise UserError(f"{file} has {len(taken)} frames; WorldTruth.other needs {count} or more.")
    return torch.from_numpy(np.stack(taken))


def _scaled(file: Path, size: tuple[int, int]) -> Iterator[Frames]:
    """Frames in the size that they were made in, which a file may hold enlarged."""
    high, wide = size
    for picture in frames(file):
        if picture.shape[0] % high or picture.shape[0] // high != picture.shape[1] // wide:
            shown = f"{picture.shape[1]}x{picture.shape[0]}"
            raise UserError(f"{file} has pictures of {shown}; WorldTruth.other needs those of the videos measured.")
        scale = picture.shape[0] // high
        yield picture[::scale, ::scale]
