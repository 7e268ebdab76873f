"""Wan 2.2's transformers, rolled block by block: one expert (5B), or one for high noise and one for low (A14B).

The network of each expert is that of Wan 2.1 at other sizes, so it is ``rollforge.backbones.wan.network.Wan``. A
timestep for each frame is what diffusers calls ``expand_timesteps``: a given frame is clean while others are noisy.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rollforge.backbones.base import Backbone, Condition
from rollforge.backbones.wan.checkpoint import open_checkpoint
from rollforge.backbones.wan.generator import DTYPES, DType
from rollforge.backbones.wan.network import Wan
from rollforge.backbones.wan.sizes import Frames, Grid, Rate, Width
from rollforge.backbones.weights import RANDOM, assign_weights, open_weights
from rollforge.devices import default_device, working_dtype
from rollforge.memory.base import Memory
from rollforge.positions import Rope
from rollforge.ranges import UserPath
from rollforge_wan22.layout import EXPERTS, Layout, locate, read_layout

log = logging.getLogger(__name__)

FOLDER = "folder"
"""What ``weights`` says for those that are in the folder."""
HIGH, LOW = 0, 1
PARTS = (*EXPERTS, "scheduler")  # the folders that are read


class Wan22(Backbone):
    """The Wan 2.2 text-to-video transformers, from a folder in diffusers' layout (block-causal).

    The number of experts, their sizes and the boundary between them are read from the folder. With two experts each
    has a cache of its own: its layers are numbered after those of the other, a pass that writes runs both, and a pass
    that only reads runs the one that its noise level belongs to.

    Paper: Wan (arXiv 2503.20314); the experts and the 5B are described in the release of Wan 2.2. The released weights
    are bidirectional: a rollout needs weights that were trained causally.

    Args:
        folder: a folder with ``model_index.json``, or a hub name such as ``Wan-AI/Wan2.2-TI2V-5B-Diffusers``.
        weights: ``folder`` for those in the folder; a ``last.ckpt`` or ``backbone.safetensors`` of ``rollforge fit``
            for others of the same sizes; ``random`` for random weights.
        height: latent rows.
        width: latent columns.
        text_len: text positions; shorter texts are padded with zeros.
        block: latent frames made together.
        window: latent frames seen in training, the current block included.
        horizon: latent frames the model was trained to roll.
        fps: latent frames per second: 6 for the 5B, 4 for the A14B.
        dtype: bf16, fp16 or fp32; ``auto`` is bf16 where there is a CUDA device that has it, else fp32.
    """

    positions = Rope()

    def __init__(
        self,
        folder: UserPath,
        weights: UserPath = FOLDER,
        height: Grid = 60,
        width: Grid = 104,
        text_len: Width = 512,
        block: Frames = 3,
        window: Frames = 21,
        horizon: Frames = 21,
        fps: Rate = 4.0,
        dtype: DType = "auto",
    ) -> None:
        super().__init__()
        what = type(self).__name__
        layout = read_layout(locate(folder, PARTS, what), what)
        self.weights, self.text_len, self.boundary = weights, text_len, layout.boundary
        with nullcontext() if weights == RANDOM else torch.device("meta"):
            experts = [
                Wan(
                    height=height, width=width, text_len=text_len, block=block, window=window, horizon=horizon, fps=fps,
                    weights=RANDOM, dtype=dtype, **layout.sizes,
                )
                for _ in layout.folders
            ]  # fmt: skip
        self.experts = nn.ModuleList(experts)
        blocks = [each for expert in experts for each in expert.blocks]
        for layer, each in enumerate(blocks):
            each.layer = layer  # type: ignore[assignment] # modules are typed as if they held tensors alone
        self.spec = replace(experts[0].spec, layers=len(blocks))
        if weights != RANDOM:
            self._load(layout, weights, DTYPES.get(dtype, working_dtype(default_device())))

    @classmethod
    def sizes_in_files(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """None: the folder alone says the sizes. Opens the weights, so that missing files are named."""
        if arguments.get("weights") == FOLDER:
            folder = locate(str(arguments.get("folder")), PARTS, cls.__name__)
            for expert in read_layout(folder, cls.__name__).folders:
                open_checkpoint(str(expert), cls.__name__)
        return {}

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Memory) -> Tensor:
        """See ``Backbone``. The flow of each frame is that of the expert that its timestep belongs to."""
        if self.boundary is None:
            return self.experts[0](latents, timesteps, condition, memory)
        is_high = timesteps >= self.boundary
        flows = {
            expert: self.experts[expert](latents, timesteps, condition, memory)
            for expert in self._needed(is_high, memory)
        }
        if len(flows) == 1:
            return next(iter(flows.values()))
        return torch.where(is_high[..., None, None, None], flows[HIGH], flows[LOW])

    def _needed(self, is_high: Tensor, memory: Memory) -> tuple[int, ...]:
        """The experts to run: both in a pass that writes, else those that some frame's timestep belongs to.

        Reads the noise level from the device, once for each pass, unless both run anyway.
        """
        if memory.now.phase.writes or is_high.is_meta:
            return HIGH, LOW
        some, every = torch.stack([is_high.any(), is_high.all()]).tolist()
        return tuple(expert for expert, runs in ((HIGH, some), (LOW, not every)) if runs)

    def _load(self, layout: Layout, weights: str, dtype: torch.dtype) -> None:
        what = type(self).__name__
        if weights != FOLDER:
            assign_weights(self, open_weights(Path(weights), "backbone", what), weights, dtype)
            return
        for expert, folder in zip(self.experts, layout.folders, strict=True):
            checkpoint = open_checkpoint(str(folder), what)
            if checkpoint.origin.attention == "bidirectional":
                log.warning(
                    "%s: the weights in %s are those of a bidirectional model, by %s; a rollout needs weights that "
                    "were trained causally.",
                    what, folder, checkpoint.origin.evidence,
                )  # fmt: skip
            assign_weights(expert, checkpoint.tensors, folder, dtype, what)
