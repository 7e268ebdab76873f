"""Pocket's network: Wan in miniature."""

from __future__ import annotations

from rollforge.backbones.wan.network import Wan
from rollforge.backbones.weights import load_weights, named, shipped


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
        block: latent frames made together.
        window: latent frames seen in training, the current block included.
        horizon: latent frames the model was trained to roll.
        fps: latent frames per second.
        weights: a safetensors file, or ``pocket`` for the shipped weights; ``random`` for random ones on purpose, unset
            for random ones, to be trained.
    """

    def __init__(
        self,
        channels: int = 8,
        height: int = 8,
        width: int = 8,
        dim: int = 192,
        layers: int = 6,
        heads: int = 6,
        ffn_dim: int = 768,
        freq_dim: int = 64,
        text_dim: int = 64,
        text_len: int = 4,
        block: int = 3,
        window: int = 21,
        horizon: int = 21,
        fps: float = 8.0,
        weights: str | None = None,
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
