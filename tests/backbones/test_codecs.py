"""What every video codec promises: frames and latents without an autograd graph, for every caller."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rollforge.backbones.base import VideoCodec
from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.wan.codec import WanVAE
from rollforge.backbones.wan.tiny import TinyWanDecoder

SIZES: dict[type[VideoCodec], dict[str, Any]] = {
    PocketCodec: {"width": 16}, TinyWanDecoder: {"channels": (16, 16, 8, 8)}, WanVAE: {"base_dim": 8},
}  # fmt: skip


@pytest.fixture(params=SIZES, ids=lambda kind: kind.__name__)
def codec(request: pytest.FixtureRequest) -> VideoCodec:
    """Built when it is used: ``WanVAE`` imports diffusers, which takes seconds."""
    return request.param(**SIZES[request.param], weights="random")  # type: ignore[no-any-return]


def test_a_stream_keeps_no_graph_from_block_to_block(codec: VideoCodec) -> None:
    assert torch.is_grad_enabled()
    assert all(parameter.requires_grad for parameter in codec.parameters())
    channels = getattr(codec, "latent_channels", 8)
    decode = codec.eval().stream()
    for _ in range(2):
        video = decode(torch.randn(1, 2, channels, 8, 8))
        assert not video.requires_grad
        assert video.numpy().shape[-3:] == (3, 64, 64)
    carried = torch.utils._pytree.tree_leaves(decode.state_dict())
    assert not any(isinstance(value, torch.Tensor) and value.requires_grad for value in carried)


@pytest.mark.parametrize("codec", [PocketCodec, WanVAE], indirect=True, ids=lambda kind: kind.__name__)
def test_encoded_latents_have_no_graph(codec: VideoCodec) -> None:
    assert not codec.eval().encode(torch.rand(1, 1, 3, 64, 64)).requires_grad
