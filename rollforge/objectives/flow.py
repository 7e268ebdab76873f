"""Flow matching in one parallel pass over a clip: teacher forcing and diffusion forcing."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.errors import UserError
from rollforge.memory import MaskedMemory
from rollforge.objectives.base import Clips, Objective
from rollforge.pipeline import Pipeline
from rollforge.prediction import predict, target
from rollforge.ranges import Count, CountFromZero, Positive, Share
from rollforge.samplers.base import TIMESTEPS, add_noise, shifted


class FlowMatching(Objective):
    """Regresses the flow ``noise - clean``, or what else the network predicts.

    Subclasses say what history a block sees.

    Args:
        shift: moves the uniformly drawn noise levels towards noise; 1 leaves them.
        drop_text: share of clips trained without their caption, so that guidance is possible.
        curriculum: clip length in latent frames from a training step on, e.g. ``{0: 3, 1000: 21}``. A shorter length
            cuts every clip into several. Unset: whole clips.
        single_blocks: share of the steps that train on single blocks whatever the curriculum says: the first block,
            made from text alone, is the hardest.
    """

    def __init__(
        self,
        shift: Positive = 1.0,
        drop_text: Share = 0.1,
        curriculum: dict[CountFromZero, Count] | None = None,
        single_blocks: Share = 0.0,
    ) -> None:
        if curriculum is not None and 0 not in curriculum:
            raise UserError(
                f"{type(self).__name__}: curriculum must say the clip length from step 0 on, not only {curriculum}."
            )
        self.shift, self.drop_text = shift, drop_text
        self.curriculum, self.single_blocks = curriculum, single_blocks

    def __call__(self, pipeline: Pipeline, clips: Clips) -> dict[str, Tensor]:
        latents, condition = self._prepare(pipeline, clips)
        noise = torch.randn_like(latents)
        error = self.flow_error(pipeline, latents, noise, condition)  # [B, F]
        return {"loss": error.mean(), "loss_first_block": error[:, : pipeline.backbone.spec.first].mean()}

    @abstractmethod
    def flow_error(self, pipeline: Pipeline, latents: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """Mean squared error of what the network predicts for each frame, ``[B, F]``."""

    @staticmethod
    def predict(
        pipeline: Pipeline, latents: Tensor, levels: Tensor, condition: Condition, memory: MaskedMemory
    ) -> Tensor:
        """What the network predicts of noisy latents ``[B, F, C, H, W]``, in the precision of the weights."""
        dtype = next(pipeline.backbone.parameters()).dtype
        return predict(pipeline.backbone, latents.to(dtype), levels, condition.to(dtype=dtype), memory)

    def levels(self, pipeline: Pipeline, latents: Tensor) -> Tensor:
        """A timestep for each block, drawn independently and told to each of its frames: ``[B, F]``."""
        spec = pipeline.backbone.spec
        numbers = spec.block_numbers(latents.shape[1])
        drawn = torch.rand(len(latents), numbers[-1] + 1, device=latents.device) * TIMESTEPS
        return shifted(drawn, self.shift).clamp(max=spec.largest_level)[:, numbers]

    def _prepare(self, pipeline: Pipeline, clips: Clips) -> tuple[Tensor, Condition]:
        """Latents ``[B, F, C, H, W]`` cut as the curriculum says, and the text features of each row."""
        (width, height), (rows, columns) = pipeline.size, clips["video"].shape[2:4]
        if (rows, columns) != (height, width):
            raise UserError(
                f"{type(self).__name__}: the clips are {columns}x{rows} pixels, the model makes {width}x{height}; let "
                "data.train_dataset give clips of that size."
            )
        latents = pipeline.encode(clips["video"])
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
        wanted = spec.first if torch.rand(()) < self.single_blocks else min(due[-1] if due else available, available)
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
        memory = MaskedMemory.diffusion_forcing(pipeline.backbone.spec, latents.shape[1], pipeline.positions)
        made = self.predict(pipeline, add_noise(latents, noise, levels), levels, condition, memory)
        return squared_error(made, target(pipeline.backbone.spec, latents, noise, levels))


class TeacherForcing(FlowMatching):
    """Trains every block on clean history, in one pass over the clip and its noisy copy."""

    def flow_error(self, pipeline: Pipeline, latents: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        return self.on_history(pipeline, latents, latents, noise, condition)

    def on_history(
        self, pipeline: Pipeline, history: Tensor, latents: Tensor, noise: Tensor, condition: Condition
    ) -> Tensor:
        """The error of every block of ``latents`` given earlier blocks of ``history`` and its own noisy self."""
        levels, frames = self.levels(pipeline, latents), latents.shape[1]
        memory = MaskedMemory.teacher_forcing(pipeline.backbone.spec, frames, pipeline.positions)
        both = torch.cat([history, add_noise(latents, noise, levels)], dim=1)
        made = self.predict(pipeline, both, torch.cat([torch.zeros_like(levels), levels], dim=1), condition, memory)
        return squared_error(made[:, frames:], target(pipeline.backbone.spec, latents, noise, levels))


def squared_error(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean over channels and space: ``[B, F]``."""
    return (made.float() - wanted).square().mean(dim=(2, 3, 4))
