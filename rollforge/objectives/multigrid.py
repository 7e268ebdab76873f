"""A schedule of clip lengths and sizes for any objective (multigrid training: arXiv 1912.00998, arXiv 2205.05069).

Stages of growing spatial size; inside a stage clips from short to long. A short clip is a piece of a full one, and a
small one is drawn at fewer pixels, so that there are more of them in a step of about the same cost. The learning rate
follows the number of clips. What is trained on pieces of frames (``takes_crops``) gets all pieces of full frames in
place of smaller ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional

from rollforge.errors import UserError
from rollforge.objectives.base import Clips, Objective
from rollforge.pipeline import Pipeline
from rollforge.ranges import Count, Range, checked

Fraction = Annotated[float, Range(above=0, most=1)]


@checked
@dataclass(frozen=True)
class Stage:
    """Some steps at one spatial size.

    Args:
        steps: optimizer steps of the stage, shared out evenly over its lengths.
        lengths: latent frames of a clip, rising.
        size: height and width, as a share of the full ones.
    """

    steps: Count
    lengths: list[Count]
    size: Fraction = 1.0


@dataclass(frozen=True)
class Shape:
    """Clips of one step: latent ``frames``, None for full ones, at a share of the full size."""

    frames: int | None = None
    size: float = 1.0


@checked
@dataclass(frozen=True)
class Multigrid:
    """Stages one after the other; then full clips.

    Only a codec that takes several sizes, and a finish that takes pieces of frames, can be trained at sizes below 1.
    For a codec ``data.batch_size`` then counts clips of the smallest size, and of a batch of larger clips the first
    ones are used. For a finish it counts full clips, which are cut into tiles of the size, as many as fit.

    Args:
        stages: in order.
        rate: how the learning rate follows the clips in a step, in multiples of those in a step of full clips.

    Raises:
        UserError: decreasing lengths or sizes, or a stage with fewer steps than lengths.
    """

    stages: list[Stage]
    rate: Literal["linear", "sqrt", "none"] = "linear"

    def __post_init__(self) -> None:
        sizes = [stage.size for stage in self.stages]
        if not sizes or sizes != sorted(sizes):
            raise UserError(f"Multigrid needs stages whose sizes rise, not {sizes}; order them.")
        for n, stage in enumerate(self.stages):
            if not stage.lengths or stage.lengths != sorted(set(stage.lengths)) or stage.steps < len(stage.lengths):
                raise UserError(
                    f"Stage {n} of Multigrid has lengths {stage.lengths} in {stage.steps} steps; give rising lengths, "
                    "and a step or more for each."
                )

    @property
    def smallest(self) -> float:
        """The smallest size of a stage."""
        return self.stages[0].size

    def at(self, step: int) -> Shape:
        """The clips of a step."""
        for stage in self.stages:
            if step < stage.steps:
                return Shape(stage.lengths[step * len(stage.lengths) // stage.steps], stage.size)
            step -= stage.steps
        return Shape()

    def clips(self, objective: Objective, pipeline: Pipeline, batch: Clips, step: int) -> Clips:
        """The clips of a step, cut from a batch of full ones. Raises ``UserError`` for clips that cannot be cut."""
        shape = self.at(step)
        self._check(objective, pipeline, shape)
        if not {"latents", "video"} & batch.keys():
            raise UserError("Multigrid cuts videos and latents, and the clips have neither; leave model.multigrid out.")
        cropped = takes_crops(objective, pipeline)
        share = 1.0 if cropped else (self.smallest / shape.size) ** 2
        kept = max(1, round(len(batch["caption"]) * share))
        name: Literal["latents", "video"] = "latents" if "latents" in batch else "video"
        full, captions = batch[name][:kept], batch["caption"][:kept]
        length = full.shape[1]
        if shape.frames is not None:
            length = shape.frames if name == "latents" else pipeline.codec.pixel_frames(shape.frames)
        if (pieces := full.shape[1] // length) == 0:
            raise UserError(
                f"Multigrid asks for clips of {shape.frames} latent frames, and those of data.train_dataset are "
                "shorter; give longer clips or a smaller length."
            )
        found = {name: full} | ({"decoded": batch["decoded"][:kept]} if "decoded" in batch else {})
        cut = {
            each: video[:, : pieces * length].unflatten(1, (pieces, length)).flatten(0, 1)
            for each, video in found.items()
        }
        made = tiles(cut, shape.size) if cropped else {name: resized(cut[name], shape.size)}
        more = len(made[name]) // kept
        return cast("Clips", made | {"caption": [each for each in captions for _ in range(more)]})

    def factor(self, full: int, clips: int, cropped: bool = False) -> float:
        """What the learning rate of a step with ``clips`` clips is multiplied by; ``full`` is the batch size.

        ``cropped`` says that smaller clips are pieces of full ones.
        """
        more = clips / max(1.0, full * (1 if cropped else self.smallest**2))
        return {"linear": more, "sqrt": more**0.5, "none": 1.0}[self.rate]

    def _check(self, objective: Objective, pipeline: Pipeline, shape: Shape) -> None:
        spec, part = pipeline.backbone.spec, getattr(pipeline, objective.trains)
        if self.smallest < 1 and not (getattr(part, "takes_sizes", False) or takes_crops(objective, pipeline)):
            raise UserError(
                f"Multigrid has stages at {self.smallest:g} of the size, and {type(part).__name__} is trained at one "
                "size; leave size out of the stages."
            )
        if shape.frames is not None and objective.trains == "backbone" and spec.whole(shape.frames) != shape.frames:
            raise UserError(
                f"Multigrid asks for clips of {shape.frames} latent frames, which are not whole blocks of {spec.block}."
            )


def resized(video: Tensor, size: float) -> Tensor:
    """Pixel frames uint8 ``[B, T, H, W, 3]`` at a share of their size; each pixel is the mean of those it covers."""
    if size == 1:
        return video
    height, width = (round(edge * size) for edge in video.shape[2:4])
    return reduced(video, height, width)


def reduced(video: Tensor, height: int, width: int) -> Tensor:
    """Pixel frames uint8 ``[B, T, H, W, 3]`` at a smaller size; each pixel is the mean of those it covers."""
    flat = video.flatten(0, 1).permute(0, 3, 1, 2).float()
    smaller = functional.interpolate(flat, (height, width), mode="area").round().to(video.dtype)
    return smaller.permute(0, 2, 3, 1).unflatten(0, video.shape[:2])


def takes_crops(objective: Objective, pipeline: Pipeline) -> bool:
    """Whether what the objective trains is trained on pieces of frames."""
    return bool(getattr(getattr(pipeline, objective.trains), "takes_crops", False))


def tiles(clips: dict[str, Tensor], size: float) -> dict[str, Tensor]:
    """Cuts ``video`` ``[B, T, H, W, 3]``, and ``decoded`` ``[B, T, 3, h, w]`` at the same places, into tiles.

    Tiles have a share ``size`` of the edges; what is left over at the right and at the bottom is unused. The first axis
    of the result is clips times tiles. Raises ``UserError`` where W and H are not w and h times a whole factor.
    """
    if size == 1:
        return clips
    decoded = clips["decoded"]
    scale, rest = divmod(clips["video"].shape[2], decoded.shape[3])
    if rest or clips["video"].shape[3] != scale * decoded.shape[4]:
        raise UserError("Multigrid cuts frames for a finish with a whole factor; leave size out of the stages.")
    height, width = (max(1, round(edge * size)) for edge in decoded.shape[3:])
    places = [
        (top, left)
        for top in range(0, decoded.shape[3] - height + 1, height)
        for left in range(0, decoded.shape[4] - width + 1, width)
    ]
    return {
        name: torch.stack(
            [
                video.narrow(axis, top * by, height * by).narrow(axis + 1, left * by, width * by)
                for top, left in places
            ], dim=1,
        ).flatten(0, 1)
        for name, video, axis, by in (("video", clips["video"], 2, scale), ("decoded", decoded, 3, 1))
    }  # fmt: skip
