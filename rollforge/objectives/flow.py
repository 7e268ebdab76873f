"""Flow matching in one parallel pass over a clip: teacher forcing and diffusion forcing."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.errors import UserError
from rollforge.memory import MaskedMemory
from rollforge.objectives.base import Clips, Objective
from rollforge.objectives.clips import latents_of
from rollforge.objectives.levels import Levels, bell, grid
from rollforge.objectives.parallel import prediction, prediction_on
from rollforge.objectives.processes import of_first
from rollforge.pipeline import Pipeline
from rollforge.prediction import target
from rollforge.ranges import Count, CountFromZero, Positive, Share
from rollforge.samplers.base import TIMESTEPS, add_noise, shifted

Weighting = Literal["none", "bell"]


class FlowMatching(Objective):
    """Regresses the flow ``noise - clean``, or whatever the network predicts.

    Subclasses say which history a block attends to.

    Args:
        shift: moves the uniformly drawn noise levels towards noise; 1 leaves them.
        drop_text: share of clips trained without their caption, so that guidance is possible.
        curriculum: clip length in latent frames from a training step on, e.g. ``{0: 3, 1000: 21}``. A shorter length
            cuts every clip into several. Unset: whole clips.
        single_blocks: share of the steps that train on single blocks whatever the curriculum says: the first block,
            made from text alone, is the hardest.
        grid: noise levels are drawn from a grid of that many values, as the released programs do (1000). Default: any.
        weighting: ``none``, or ``bell``: the released programs weight the error by its noise level, 0 at pure noise
            and largest at half of it.
    """

    def __init__(
        self,
        shift: Positive = 1.0,
        drop_text: Share = 0.1,
        curriculum: dict[CountFromZero, Count] | None = None,
        single_blocks: Share = 0.0,
        grid: Levels | None = None,
        weighting: Weighting = "none",
    ) -> None:
        if curriculum is not None and 0 not in curriculum:
            raise UserError(
                f"{type(self).__name__}: curriculum must say the clip length from step 0 on, not only {curriculum}."
            )
        self.shift, self.drop_text = shift, drop_text
        self.curriculum, self.single_blocks = curriculum, single_blocks
        self.grid, self.weighting = grid, weighting

    def __call__(self, pipeline: Pipeline, clips: Clips) -> dict[str, Tensor]:
        latents, condition = self._prepare(pipeline, clips)
        noise = torch.randn_like(latents)
        error = self.flow_error(pipeline, latents, noise, condition)  # [B, F]
        return {"loss": error.mean(), "loss_first_block": error[:, : pipeline.backbone.spec.first].mean()}

    @abstractmethod
    def flow_error(self, pipeline: Pipeline, latents: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """Mean squared error of what the network predicts for each frame, ``[B, F]``."""

    def levels(self, pipeline: Pipeline, latents: Tensor) -> Tensor:
        """A timestep for each block, drawn independently and the same for all of its frames: ``[B, F]``."""
        spec = pipeline.backbone.spec
        numbers = spec.block_numbers(latents.shape[1])
        return self.drawn((len(latents), numbers[-1] + 1), latents.device).clamp(max=spec.largest_level)[:, numbers]

    def drawn(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Shifted timesteps of this shape."""
        if self.grid is None:
            return shifted(torch.rand(shape, device=device) * TIMESTEPS, self.shift)
        return grid(self.grid, self.shift).to(device)[torch.randint(self.grid, shape, device=device)]

    def error(self, made: Tensor, wanted: Tensor, levels: Tensor) -> Tensor:
        """Mean squared error over channels and space, weighted by the noise level: ``[B, F]``."""
        error = squared_error(made, wanted)
        return error * bell(levels, self.shift) if self.weighting == "bell" else error

    def _prepare(self, pipeline: Pipeline, clips: Clips) -> tuple[Tensor, Condition]:
        """Latents ``[B, F, C, H, W]`` cut as the curriculum says, and the text features of each row."""
        latents = latents_of(self, pipeline, clips)
        frames = self._frames(pipeline, latents.shape[1])
        pieces = latents.shape[1] // frames
        latents = latents[:, : pieces * frames].unflatten(1, (pieces, frames)).flatten(0, 1)
        captions = [caption for caption in clips["caption"] for _ in range(pieces)]
        dropped = torch.rand(len(captions)) < self.drop_text
        return latents, pipeline.condition(
            ["" if drop else caption for caption, drop in zip(captions, dropped, strict=True)]
        )

    def _frames(self, pipeline: Pipeline, available: int) -> int:
        spec = pipeline.backbone.spec
        due = [frames for start, frames in sorted((self.curriculum or {}).items()) if start <= self.step]
        alone = torch.rand(())
        if self.single_blocks and of_first(alone) < self.single_blocks:
            wanted = spec.first
        else:
            wanted = min(due[-1] if due else available, available)
        whole = spec.whole(wanted)
        if not whole or (due and wanted != whole):
            raise UserError(
                f"{type(self).__name__}: clips of {wanted} latent frames are not whole blocks of {spec.block}."
            )
        return whole


class DiffusionForcing(FlowMatching):
    """Trains every block at its own noise level, its history at theirs (Diffusion Forcing, arXiv 2407.01392)."""

    def flow_error(self, pipeline: Pipeline, latents: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        levels = self.levels(pipeline, latents)
        spec, frames = pipeline.backbone.spec, latents.shape[1]
        memory = MaskedMemory.diffusion_forcing(spec, frames, pipeline.positions, pipeline.routing)
        made = prediction(pipeline.backbone, add_noise(latents, noise, levels), levels, condition, memory)
        return self.error(made, target(pipeline.backbone.spec, latents, noise, levels), levels)


class TeacherForcing(FlowMatching):
    """Trains every block on clean history, in one pass over the clip and its noisy copy."""

    def flow_error(self, pipeline: Pipeline, latents: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        return self.on_history(pipeline, latents, latents, noise, condition)

    def on_history(
        self, pipeline: Pipeline, history: Tensor, latents: Tensor, noise: Tensor, condition: Condition
    ) -> Tensor:
        """The error of every block of ``latents`` given earlier blocks of ``history`` and its own noisy self."""
        levels = self.levels(pipeline, latents)
        noisy = add_noise(latents, noise, levels)
        made = self.predicted(pipeline, history, noisy, levels, condition)
        return self.error(made, target(pipeline.backbone.spec, latents, noise, levels), levels)

    @staticmethod
    def predicted(pipeline: Pipeline, history: Tensor, noisy: Tensor, levels: Tensor, condition: Condition) -> Tensor:
        """What the network predicts of ``noisy`` given earlier blocks of ``history``, in one pass over both."""
        spec, frames = pipeline.backbone.spec, noisy.shape[1]
        memory = MaskedMemory.teacher_forcing(spec, frames, pipeline.positions, pipeline.routing)
        return prediction_on(pipeline.backbone, history, noisy, levels, condition, memory)


def squared_error(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean over channels and space: ``[B, F]``."""
    return (made.float() - wanted).square().mean(dim=(2, 3, 4))
