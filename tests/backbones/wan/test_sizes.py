"""The published networks, told from the shapes of their weights alone; no weight is ever allocated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rollforge.backbones.tensors import Stored
from rollforge.backbones.wan.network import Wan
from rollforge.backbones.wan.sizes import Sizes

NAMES = ("channels", "dim", "layers", "heads", "ffn_dim", "freq_dim", "text_dim")


@pytest.mark.parametrize(
    ("dim", "layers", "heads", "ffn_dim", "parameters"),
    [(1536, 30, 12, 8960, 1.419e9), (5120, 40, 40, 13824, 14.288e9)],
    ids=["1.3B", "14B"],
)
def test_published_sizes(dim: int, layers: int, heads: int, ffn_dim: int, parameters: float) -> None:
    with torch.device("meta"):
        model = Wan(dim=dim, layers=layers, heads=heads, ffn_dim=ffn_dim)
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(parameters, rel=1e-3)
    found = {
        name: Stored(name, Path("x"), tuple(value.shape), value.dtype, lambda: torch.zeros(()))
        for name, value in model.state_dict().items()
    }
    sizes = Sizes.resolve("Wan", found, **dict.fromkeys(NAMES))
    assert [getattr(sizes, name) for name in NAMES] == [16, dim, layers, heads, ffn_dim, 256, 4096]
