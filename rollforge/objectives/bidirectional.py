"""Flow matching for teachers and critics: full attention within a clip, and one noise level for all its frames."""

from __future__ import annotations

from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.memory import FullMemory
from rollforge.objectives.flow import FlowMatching
from rollforge.objectives.parallel import prediction
from rollforge.pipeline import Pipeline
from rollforge.prediction import target
from rollforge.samplers.base import add_noise


class Bidirectional(FlowMatching):
    """Trains a bidirectional network on complete clips, one noise level for each: the teacher of ``SelfForcing``.

    Such a network generates complete clips as one block if its ``block`` is as long as its window.
    """

    def flow_error(self, pipeline: Pipeline, latents: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        levels = self.levels(pipeline, latents)
        memory = FullMemory(pipeline.backbone.spec, range(latents.shape[1]), pipeline.positions)
        made = prediction(pipeline.backbone, add_noise(latents, noise, levels), levels, condition, memory)
        return self.error(made, target(pipeline.backbone.spec, latents, noise, levels), levels)

    def levels(self, pipeline: Pipeline, latents: Tensor) -> Tensor:
        """A timestep for each clip, the same for all of its frames: ``[B, F]``."""
        drawn = self.drawn((len(latents), 1), latents.device)
        return drawn.clamp(max=pipeline.backbone.spec.largest_level).expand(latents.shape[:2])
