"""Compares videos of the procedural world with their captions."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rollforge.data.world import SHAPES, Scene, render
from rollforge.errors import UserError
from rollforge.metrics.base import Blocks, Metric
from rollforge.metrics.identity import Gap, opening_of
from rollforge.metrics.jumps import Jumps
from rollforge.metrics.landscape import Landscape
from rollforge.metrics.palette import Palette, Tint, rows
from rollforge.metrics.skyline import Skyline
from rollforge.metrics.template import HALF, LEAST_SEEN, Strays, Template, misfits, without_edges
from rollforge.ranges import Share, UserPath
from rollforge.state import State

STRIDE = 8  # frames over which motion is taken, so that positions to two pixels suffice
OPENING = 21  # frames that repetition compares with


class WorldTruth(Metric):
    """Presence, colour, motion of the captioned objects; background and landscape; sharpness; repetition.

    Curves have one number for each frame.

    Curves:
        presence: share of the captioned objects found: somewhere the object's own rendering fits its visible part to
            ``tolerance`` (root mean square), and better than the other shapes of that colour. An object that is almost
            completely hidden behind a nearer one is not found, so true videos score a little below 1.
        count: objects in the frame, whatever their colour and shape: those found, and whatever else fits an object of
            the world, at least 0.6 of it visible and 12 pixels (in x or y) from the next.
        count_error: difference between ``count`` and the caption. True videos score a little above 0, for the
            same reason.
        jump: share of the objects that are found farther from where they were last found than the world's largest speed
            (0.9 pixels per frame) allows, and 4 pixels of slack; 0 for true videos, but for rare errors.
        colour_error: mean absolute difference of an object's mean colour from the truth, at the best place, in 0..1.
        background_error: mean absolute difference of the rows of sky and ground (median over columns without objects)
            from the caption, under the tints of the world that fit them best, in 0..1.
        tint: mean absolute difference of these rows from the opening's, in 0..1: how far the colours of the scene,
            which no caption fixes, have drifted. True ones stay.
        skyline: pixels by which the line of the hills has moved from where it was in the opening; true hills stay.
        landscape: 0 where hills, sun and tints are as in the opening, as true ones are, 1 where they are as unlike it
            as another landscape of the same caption. Pixels of objects are left out. The opening is here the first
            frames that show them all; unknown before.
        sharpness: variance of the Laplacian of luma, over that of true frames with the same caption; 1 is as crisp.
        motion: pixels per frame that the objects travel, taken over eight frames (the truth: 0.4 to 0.9 less bounces).
        repetition: 1 where a frame copies one of the opening's, 0 where it is as unlike them as another true moment.
        landscape_gap: with ``other``, ``landscape`` minus the same against the opening of that video: below 0 where the
            video still matches its own opening better.
        colour_gap: with ``other``, the mean absolute difference of the objects' colours from the opening's, minus the
            same against the opening of that video.

    Args:
        tolerance: largest root mean square difference, in 0..1, at which an object counts as found.
        other: the folder of a finished run of the same prompts with another seed, one horizon long or longer.
    """

    reference_frames = OPENING

    def __init__(self, tolerance: Share = 0.12, other: UserPath | None = None) -> None:
        self.tolerance, self.other = tolerance, other

    def start(self, prompt: str, fps: float, blocks: Blocks | None = None) -> None:
        scene = opening_scene(prompt)
        if not scene.complete:
            raise UserError(
                f"WorldTruth has no ground truth for {prompt!r}, which is incomplete; "
                "it needs captions with every colour, the ground and the time."
            )
        self.things = [({kind: Template.of(colour, kind) for kind in SHAPES}, shape) for colour, shape in scene.things]
        true = _floats(torch.from_numpy(np.concatenate([render(scene, seed, 2)[0] for seed in range(16)])))
        self.true_sharpness = _laplacian(true).mean()
        moments = torch.from_numpy(render(scene, 0, 240)[0][::8])
        self.true_distance = torch.pdist(_thumbnails(_floats(moments))).median()
        self.palette, self.tint = Palette(scene), Tint(OPENING)
        self.skyline, self.landscape = Skyline(OPENING), Landscape(scene, OPENING)
        self.strays, self.jumps = Strays(), Jumps(len(self.things))
        self.prompt, self.gap = prompt, Gap(scene, OPENING) if self.other else None
        self.opening = torch.zeros(0, 256)
        self.path = torch.zeros(0, len(self.things), 2)
        self.next = 0

    def update(self, frames: Tensor, start: int) -> dict[str, Tensor]:
        video = _floats(frames)
        small = functional.avg_pool2d(video, 2)
        if self.gap and not self.gap.known:
            other = opening_of(Path(str(self.other)), self.prompt, OPENING, (frames.shape[1], frames.shape[2]))
            self._reference(self.gap, functional.avg_pool2d(_floats(other), 2))
        found, colours_off, centres, strays, free = self._things(small)
        count = found.sum(dim=1) + strays
        seen = rows(small, free)
        colours = self.palette.fitted(seen)
        thumbnails = _thumbnails(video)
        self.opening = torch.cat([self.opening, thumbnails])[:OPENING] if len(self.opening) < OPENING else self.opening
        path = torch.cat([self.path if start == self.next else self.path[:0], centres])
        self.path, self.next = path[-STRIDE:], start + len(frames)
        landscape = self.landscape.changed(small, free, found.all(dim=1))
        gaps = self.gap.measured(small, free, found, colours_off, landscape) if self.gap else {}
        return gaps | {
            "presence": found.float().mean(dim=1),
            "count": count,
            "count_error": (count - len(self.things)).abs(),
            "jump": self.jumps.share(centres, found, start),
            "colour_error": colours_off.abs().mean(dim=(1, 2)),
            "background_error": self.palette.error(seen, colours),
            "tint": self.tint.drifted(seen),
            "skyline": self.skyline.moved(video, colours),
            "landscape": landscape,
            "sharpness": _laplacian(video) / self.true_sharpness,
            "motion": _travel(path, len(frames)),
            "repetition": 1 - torch.cdist(thumbnails, self.opening).min(dim=1).values / self.true_distance,
        }

    def truth(self, prompt: str, seed: int, frames: int) -> Tensor:
        return torch.from_numpy(render(opening_scene(prompt), seed, frames)[0])

    def state_dict(self) -> State:
        carried = {"opening": self.opening, "path": self.path, "next": self.next}
        parts = {"tint": self.tint, "skyline": self.skyline, "landscape": self.landscape, "jumps": self.jumps}
        parts |= {"gap": self.gap} if self.gap else {}
        return deepcopy(carried | {name: part.state_dict() for name, part in parts.items()})

    def _reference(self, gap: Gap, small: Tensor) -> None:
        """Takes the opening of another video as the reference. What is counted of this one is left as it is."""
        strays = deepcopy(self.strays)
        found, colours_off, _, _, free = self._things(small)
        self.strays = strays
        gap.refer(small, free, found, colours_off)

    def _things(self, small: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Looks for objects in frames ``[T, 3, h, w]`` at half resolution. Nearer ones hide farther ones.

        What was found ``[T, things]``, by how much colours are off ``[T, things, 3]``, centres ``[T, things, 2]``,
        number of strays ``[T]``, and what of the frames ``[T, 1, h, w]`` is free of objects and their edges, also of
        those that fit nowhere well.
        """
        visible, free = torch.ones_like(small[:, :1]), torch.ones_like(small[:, :1])
        found, errors, centres = [], [], []
        for shapes, named in self.things:
            fits = dict(zip(shapes, misfits(list(shapes.values()), small, visible, LEAST_SEEN).unbind(1), strict=True))
            least = {shape: misfit.flatten(1).amin(dim=1) for shape, misfit in fits.items()}
            others = torch.stack([value for shape, value in least.items() if shape != named]).amin(dim=0)
            here = (least[named] < self.tolerance) & (least[named] <= others)
            columns = fits[named].shape[2]
            place = fits[named].flatten(1).argmin(dim=1)
            top, left = (place // columns).tolist(), (place % columns).tolist()
            errors.append(_colour_off(small, visible, shapes[named], top, left))
            _hide(visible, shapes[named], top, left, here)
            _hide(free, shapes[named], top, left, torch.ones_like(here))
            found.append(here)
            centres.append(torch.stack([place % columns, place // columns], dim=1) * 2.0 + HALF)
        known, places = torch.stack(found, 1), torch.stack(centres, 1)
        strays = self.strays.count(small, visible, self.tolerance, known, ((places - HALF) / 2).long())
        return known, torch.stack(errors, 1), places, strays, without_edges(free)


def opening_scene(prompt: str) -> Scene:
    """What is true of a video: what the first of its prompts says, and later ones may leave unsaid."""
    return Scene.parse(prompt.partition(" | ")[0])


def _colour_off(video: Tensor, visible: Tensor, template: Template, top: list[int], left: list[int]) -> Tensor:
    """Difference of mean colours from the template's where it lies: ``[T, 3]``."""
    high, wide = template.solid.shape
    errors = []
    for t, (y, x) in enumerate(zip(top, left, strict=True)):
        shown = template.solid * visible[t, 0, y : y + high, x : x + wide]
        difference = (video[t, :, y : y + high, x : x + wide] - template.colours) * shown
        errors.append(difference.sum(dim=(1, 2)) / shown.sum().clamp(min=1))
    return torch.stack(errors)


def _hide(visible: Tensor, template: Template, top: list[int], left: list[int], found: Tensor) -> None:
    """Removes what an object covers, in the frames where it was ``found [T]``, from what is visible."""
    high, wide = template.whole.shape
    for t, (y, x, here) in enumerate(zip(top, left, found.tolist(), strict=True)):
        if here:
            visible[t, 0, y : y + high, x : x + wide] *= 1 - template.whole


def _floats(frames: Tensor) -> Tensor:
    """uint8 ``[T, H, W, 3]`` to float ``[T, 3, H, W]`` in 0..1."""
    return frames.permute(0, 3, 1, 2).float() / 255


def _luma(video: Tensor) -> Tensor:
    return (video * torch.tensor([0.2126, 0.7152, 0.0722])[:, None, None]).sum(dim=1, keepdim=True)


def _laplacian(video: Tensor) -> Tensor:
    """Variance of the Laplacian of luma, one number for each frame."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
    return functional.conv2d(_luma(video), kernel[None, None]).flatten(1).var(dim=1)


def _thumbnails(video: Tensor) -> Tensor:
    return functional.avg_pool2d(_luma(video), 4).flatten(1)


def _travel(path: Tensor, frames: int) -> Tensor:
    """Mean pixels per frame over the last ``STRIDE`` frames, for the last ``frames`` of ``path`` ``[T, things, 2]``."""
    ends = torch.arange(len(path) - frames, len(path))
    starts = (ends - STRIDE).clamp(min=0)
    spans = (ends - starts).clamp(min=1)[:, None]
    return ((path[ends] - path[starts]).norm(dim=2) / spans).mean(dim=1)
