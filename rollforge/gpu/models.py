"""The two sizes that are checked: a toy, and the 1.3B model with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from rollforge.backbones.base import Condition, VideoCodec
from rollforge.backbones.wan.network import Wan

TOY: dict[str, Any] = {
    "height": 4,
    "width": 8,
    "dim": 96,
    "layers": 2,
    "heads": 3,
    "ffn_dim": 384,
    "freq_dim": 64,
    "text_dim": 64,
    "text_len": 16,
}


@dataclass(frozen=True)
class Setup:
    """Where and at which size a stage runs.

    Args:
        device: ``cuda`` or ``cpu``.
        full: whether speed is measured at the 1.3B shape, 480x832, in bf16; else at toy size in float32.
    """

    device: str
    full: bool

    def backbone(self) -> Wan:
        """The network whose speed is measured."""
        if not self.full:
            return toy().to(self.device)
        torch.manual_seed(0)
        with torch.device(self.device):
            return Wan(weights="random", dtype="bf16").to(torch.bfloat16).eval()

    def codecs(self) -> dict[str, Callable[[], VideoCodec]]:
        """Wan's codecs with random weights, to be built. The VAE raises ``UserError`` without the package diffusers."""
        from rollforge.backbones.wan.codec import WanVAE
        from rollforge.backbones.wan.tiny import TinyWanDecoder

        width, widths = (96, (256, 128, 64, 64)) if self.full else (8, (8, 8, 8, 8))
        return {
            "WanVAE": lambda: WanVAE(weights="random", base_dim=width).to(self.device),
            "TinyWanDecoder": lambda: TinyWanDecoder(weights="random", channels=widths).to(self.device),
        }

    def text(self, backbone: Wan) -> Condition:
        """Random text features ``[1, text_len, D]`` that fill all positions."""
        width = int(backbone.state_dict()["text_embedding.0.weight"].shape[1])
        features = torch.randn(1, backbone.text_len, width, generator=torch.Generator().manual_seed(0))
        return Condition("prompt", features)

    @property
    def name(self) -> str:
        """The size and the precision, for a row."""
        return "1.3B, 480x832, bf16" if self.full else "toy, float32"


def toy() -> Wan:
    """A small network with the same random weights at every call, on the CPU in float32."""
    torch.manual_seed(0)
    return Wan(**TOY).eval()


def toy_text(name: str, rows: int, shift: float = 0.0) -> Condition:
    """Text features of a toy, ``[rows, 4, 64]``, each row different."""
    return Condition(name, torch.linspace(-1, 1, rows * 4 * 64).reshape(rows, 4, 64) + shift)
