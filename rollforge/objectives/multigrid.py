"""A schedule of clip lengths and sizes for any objective (multigrid training: arXiv 1912.00998, arXiv 2205.05069).

Stages of growing spatial size; inside a stage clips from short to long. A short clip is a piece of a full one, and a
small one is drawn at fewer pixels, so that there are more of them in a step of about the same cost. The learning rate
follows the number of clips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, cast

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

    Only a codec that takes several sizes can be trained at sizes below 1. ``data.batch_size`` then counts clips of the
    smallest size, and of a batch of larger clips the first ones are used.

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
        kept = max(1, round(len(batch["caption"]) * (self.smallest / shape.size) ** 2))
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
        cut = full[:, : pieces * length].unflatten(1, (pieces, length)).flatten(0, 1)
        made = {name: resized(cut, shape.size), "caption": [each for each in captions for _ in range(pieces)]}
        return cast("Clips", made)

    def factor(self, full: int, clips: int) -> float:
        """What the learning rate of a step with ``clips`` clips is multiplied by; ``full`` is the batch size."""
        more = clips / max(1.0, full * self.smallest**2)
        return {"linear": more, "sqrt": more**0.5, "none": 1.0}[self.rate]

    def _check(self, objective: Objective, pipeline: Pipeline, shape: Shape) -> None:
        spec, part = pipeline.backbone.spec, getattr(pipeline, objective.trains)
        if self.smallest < 1 and not getattr(part, "takes_sizes", False):
            raise UserError(
                f"Multigrid has stages at {self.smallest:g} of the size, and {type(part).__name__} is trained at one "
                "latent size; leave size out of the stages."
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
    flat = video.flatten(0, 1).permute(0, 3, 1, 2).float()
    smaller = functional.interpolate(flat, (height, width), mode="area").round().to(video.dtype)
    return smaller.permute(0, 2, 3, 1).unflatten(0, video.shape[:2])
