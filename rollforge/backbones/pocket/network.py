"""Pocket's network: Wan in miniature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollforge.backbones.wan.network import Wan
from rollforge.backbones.wan.sizes import EvenWidth, Frames, Grid, Layers, Rate, Width
from rollforge.backbones.weights import load_weights, named, shipped
from rollforge.ranges import Count, UserPath


class Pocket(Wan):
    """The Wan network in miniature, for 64x64 videos of the procedural world.

    Args:
        channels: latent channels.
        height: latent rows.
        width: latent columns.
        dim: width of the network.
        layers: transformer blocks.
        heads: attention heads.
        ffn_dim: width of the feed-forward layers.
        freq_dim: channels of the sinusoidal timestep embedding.
        text_dim: channels of the text features.
        text_len: text positions.
        block: latent frames of a block.
        window: latent frames attended to in training, the current block included.
        horizon: latent frames that the model was trained to generate.
        fps: latent frames per second.
        weights: a safetensors file; ``pocket`` for the weights that come with rollforge; ``random`` for random weights.
            Unset: random weights that ``fit`` trains; ``predict`` and ``test`` refuse them.
    """

    def __init__(
        self,
        channels: Width = 8,
        height: Grid = 8,
        width: Grid = 8,
        dim: Width = 192,
        layers: Layers = 6,
        heads: Count = 6,
        ffn_dim: Width = 768,
        freq_dim: EvenWidth = 64,
        text_dim: Width = 64,
        text_len: Width = 4,
        block: Frames = 3,
        window: Frames = 21,
        horizon: Frames = 21,
        fps: Rate = 8.0,
        weights: UserPath | None = None,
    ) -> None:
        super().__init__(
            channels=channels,
            height=height,
            width=width,
            dim=dim,
            layers=layers,
            heads=heads,
            ffn_dim=ffn_dim,
            freq_dim=freq_dim,
            text_dim=text_dim,
            text_len=text_len,
            block=block,
            window=window,
            horizon=horizon,
            fps=fps,
            dtype="fp32",
        )
        self.weights = weights
        if (file := named(weights)) is not None:
            load_weights(self, shipped("pocket") if file == "pocket" else file)

    @classmethod
    def sizes_in_files(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """None: every size is an argument with a default of its own."""
        return {}
