"""Regression of a teacher's ODE solutions: the first stage of few-step training.

Sources: CausVid (arXiv 2412.07772, section 4.3) and Self Forcing (arXiv 2506.08009) with noisy history, Causal Forcing
with clean history. The student gets a state of the teacher's solution at one of its own denoising steps and
predicts where the solution ends.

==================  =======================================  ====================================
number              ``history="noisy"`` (Self Forcing)       ``history="clean"`` (Causal Forcing)
==================  =======================================  ====================================
levels drawn        one for each block                       one for each video
a block attends to  itself, earlier blocks at their levels   itself, earlier blocks of the clip
target              the end of the solution                  the end of the solution
denoising steps     1000, 750, 500, 250, shift 5             the same
loss                mean (x0 - target)^2, no weight          the same
==================  =======================================  ====================================
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rollforge.errors import UserError
from rollforge.memory import MaskedMemory
from rollforge.objectives.base import Clips, Objective
from rollforge.objectives.flow import squared_error
from rollforge.objectives.parallel import clean_of, prediction, prediction_on
from rollforge.pipeline import Pipeline
from rollforge.ranges import Share

APART = 0.01
"""Timesteps that are further apart are not the same denoising step."""


class OdeRegression(Objective):
    """Trains a few-step model to jump from a state of a teacher's ODE solution to its end.

    It reads the clips of ``Trajectories``, which ``rollforge trajectories`` makes.

    Args:
        history: ``noisy``: earlier blocks are at their own levels (Self Forcing); ``clean``: earlier blocks of the
            clip that the teacher was given (Causal Forcing).
        levels: whether each ``block`` draws a level, or the ``video`` one for all. Default: block with noisy history,
            video with clean history, as the releases do.
        drop_text: share of clips trained without their caption.
    """

    def __init__(
        self,
        history: Literal["noisy", "clean"] = "noisy",
        levels: Literal["block", "video"] | None = None,
        drop_text: Share = 0.0,
    ) -> None:
        self.history, self.drop_text = history, drop_text
        self.levels = levels or ("video" if history == "clean" else "block")

    def __call__(self, pipeline: Pipeline, clips: Clips) -> dict[str, Tensor]:
        states, end, history = self._states(pipeline, clips)
        steps = clips["timesteps"].to(states.device)
        index = self._draw(pipeline, states)  # [B, F]
        rows = torch.arange(len(states), device=states.device)[:, None]
        levels = steps[rows, index]
        noisy = states[rows, index, torch.arange(states.shape[2], device=states.device)]

        dropped = torch.rand(len(states)) < self.drop_text
        captions = ["" if drop else caption for caption, drop in zip(clips["caption"], dropped, strict=True)]
        condition, backbone = pipeline.condition(captions), pipeline.backbone
        spec, frames = backbone.spec, noisy.shape[1]
        if self.history == "clean":
            memory = MaskedMemory.teacher_forcing(spec, frames, pipeline.positions)
            made = prediction_on(backbone, history, noisy, levels, condition, memory)
        else:
            memory = MaskedMemory.diffusion_forcing(spec, frames, pipeline.positions)
            made = prediction(backbone, noisy, levels, condition, memory)

        error = squared_error(clean_of(backbone, made, noisy, levels), end)  # [B, F]
        return {"loss": error.mean(), "loss_first_block": error[:, : spec.first].mean()}

    def _draw(self, pipeline: Pipeline, states: Tensor) -> Tensor:
        """The state of each frame, ``[B, F]``."""
        numbers = pipeline.backbone.spec.block_numbers(states.shape[2])
        count = numbers[-1] + 1 if self.levels == "block" else 1
        drawn = torch.randint(states.shape[1], (len(states), count), device=states.device)
        return drawn[:, numbers] if self.levels == "block" else drawn.expand(-1, states.shape[2])

    def _states(self, pipeline: Pipeline, clips: Clips) -> tuple[Tensor, Tensor, Tensor]:
        """States ``[B, S, F, C, H, W]``, end and clip ``[B, F, C, H, W]``. Raises ``UserError`` for clips without."""
        if "trajectory" not in clips:
            raise UserError(
                "OdeRegression trains on trajectories of a teacher; set data.train_dataset to Trajectories, with a "
                "folder that `rollforge trajectories` has made."
            )
        steps, stored = clips["timesteps"].shape[1], clips["trajectory"].to(pipeline.device)
        own = [float(each) for each in pipeline.sampler.timesteps if each]
        recorded = [round(float(each), 2) for each in clips["timesteps"][0]]
        if len(own) != steps or any(abs(a - b) > APART for a, b in zip(own, recorded, strict=True)):
            raise UserError(
                f"OdeRegression: the trajectories hold the states at timesteps {recorded}, and model.sampler "
                f"{type(pipeline.sampler).__name__} denoises at {[round(each, 2) for each in own]}; make trajectories "
                "for this sampler, or take a FewStep sampler with their steps."
            )
        if self.history == "clean" and stored.shape[1] < steps + 2:
            raise UserError(
                "OdeRegression: history=clean needs the clip that the teacher was given, and these trajectories were "
                "made from noise alone; make them from data.train_dataset, or set history: noisy."
            )
        frames = stored.shape[2]
        if stored.shape[3:] != pipeline.backbone.spec.latent_shape or pipeline.backbone.spec.whole(frames) != frames:
            raise UserError(
                f"OdeRegression: the trajectories are {frames} frames of {list(stored.shape[3:])}; the model makes "
                f"blocks of {pipeline.backbone.spec.block} frames of {list(pipeline.backbone.spec.latent_shape)}. "
                "Make them with a teacher of that latent size."
            )
        return stored[:, :steps], stored[:, steps], stored[:, -1]
