"""Both components under ``rollforge.testing``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rollforge_wan22.backbone import Wan22
from rollforge_wan22.codec import Wan22VAE

from rollforge.backbones.base import Condition
from rollforge.testing import check_backbone, check_codec


@pytest.mark.parametrize("name", ["5b", "a14b"])
def test_network_passes_the_kit(releases: dict[str, Any], name: str) -> None:
    sizes: dict[str, Any] = {"height": 4, "width": 4, "text_len": 8, "block": 2, "window": 6, "horizon": 6}
    text = torch.randn(2, 8, 24, generator=torch.Generator().manual_seed(0))
    check_backbone(Wan22(str(releases[name].folder), **sizes), Condition("text", text))


@pytest.mark.parametrize("name", ["5b", "a14b"])
def test_vae_passes_the_kit(releases: dict[str, Any], name: str) -> None:
    check_codec(Wan22VAE(str(releases[name].folder)), 6, grid=(2, 3))
