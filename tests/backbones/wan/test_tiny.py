"""The tiny decoder of Wan's latents: its layout and past, frame by frame, from the names of the published weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from rollforge.backbones.wan.tiny import TinyWanDecoder
from rollforge.errors import UserError

SMALL: dict[str, Any] = {"z_dim": 4, "channels": (16, 8, 4, 4)}


@pytest.fixture(scope="module")
def codec() -> TinyWanDecoder:
    torch.manual_seed(0)
    return TinyWanDecoder(**SMALL)


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return 2 * torch.randn(2, 6, 4, 3, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def frame_by_frame(weights: dict[str, Tensor], latents: Tensor) -> Tensor:
    """The published layout walked through one frame after the other, depth first."""
    pasts: dict[int, Tensor] = {}
    video: list[Tensor] = []

    def conv(x: Tensor, name: str, padding: int = 1) -> Tensor:
        return functional.conv2d(
            x, weights[f"decoder.{name}.weight"], weights.get(f"decoder.{name}.bias"), padding=padding
        )

    def walk(x: Tensor, layer: int) -> None:
        if layer in (3, 4, 5, 9, 10, 11, 15, 16, 17):
            h = torch.cat([x, pasts.get(layer, torch.zeros_like(x))], dim=1)
            pasts[layer] = x
            for place in (0, 2):
                h = conv(h, f"{layer}.conv.{place}").relu()
            walk((conv(h, f"{layer}.conv.4") + x).relu(), layer + 1)
        elif layer in (6, 12, 18):
            grown = conv(functional.interpolate(x, scale_factor=2), f"{layer + 1}.conv", padding=0)
            for frame in grown.chunk(1 if layer == 6 else 2, dim=1):
                walk(conv(frame, str(layer + 2)), layer + 3)
        else:
            assert layer == 21
            video.append(conv(x.relu(), "22").clamp(0, 1))

    for latent in latents.unbind(1):
        walk(conv(3 * torch.tanh(latent / 3), "1").relu(), 3)
    return torch.stack(video[3:], dim=1)


@pytest.mark.parametrize("sizes", [(6,), (3, 3), (1, 5), (1, 2, 1, 2)], ids=str)
def test_a_stream_equals_the_published_layout_frame_by_frame(
    codec: TinyWanDecoder, latents: Tensor, sizes: tuple[int, ...]
) -> None:
    stream = codec.stream()
    video = torch.cat([stream(block) for block in latents.split(list(sizes), dim=1)], dim=1)
    assert video.shape == (2, 21, 3, 24, 40)
    assert video.std() > 0
    torch.testing.assert_close(video, frame_by_frame(codec.state_dict(), latents), rtol=0, atol=1e-5)


def test_streams_do_not_disturb_each_other(codec: TinyWanDecoder, latents: Tensor) -> None:
    one, two = codec.stream(), codec.stream()
    first, other = one(latents[:, :2]), two(latents[:, 4:])
    torch.testing.assert_close(torch.cat([first, one(latents[:, 2:])], dim=1), codec.decode(latents), rtol=0, atol=1e-5)
    torch.testing.assert_close(other, codec.decode(latents[:, 4:]), rtol=0, atol=1e-5)


def test_sizes_and_counts_are_those_of_the_vae(codec: TinyWanDecoder) -> None:
    assert [codec.pixel_frames(n) for n in (0, 1, 2, 21)] == [0, 1, 5, 81]
    assert codec.pixel_size(104, 60) == (832, 480)


def test_the_published_size() -> None:
    weights = TinyWanDecoder().state_dict()
    assert weights["decoder.1.weight"].shape == (256, 16, 3, 3)
    assert weights["decoder.3.conv.0.weight"].shape == (256, 512, 3, 3)
    assert weights["decoder.7.conv.weight"].shape == (256, 256, 1, 1)
    assert weights["decoder.13.conv.weight"].shape == (256, 128, 1, 1)
    assert weights["decoder.22.weight"].shape == (3, 64, 3, 3)
    assert "decoder.8.bias" not in weights


@pytest.mark.parametrize("name", ["taew2_1.pth", "taew2_1.safetensors", ""])
def test_weights_come_with_an_encoder_that_is_left_alone(codec: TinyWanDecoder, tmp_path: Path, name: str) -> None:
    published = {**codec.state_dict(), "encoder.0.weight": torch.zeros(1)}
    if name.endswith(".safetensors"):
        save_file(published, tmp_path / name)
    else:
        torch.save({key: value.half() for key, value in published.items()}, tmp_path / "taew2_1.pth")
    loaded = TinyWanDecoder(str(tmp_path / name), **SMALL)
    assert loaded.precision == torch.float32
    assert all(torch.allclose(value, codec.state_dict()[key], atol=1e-3) for key, value in loaded.state_dict().items())


def test_mistakes_are_told(codec: TinyWanDecoder, latents: Tensor, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="take WanVAE"):
        codec.encode(torch.rand(1, 1, 3, 16, 16))
    with pytest.raises(UserError, match=r"expected \[batch, frames, 4, rows, columns\]"):
        codec.decode(latents[:, :0])
    with pytest.raises(UserError, match=r"github\.com/madebyollin/taehv"):
        TinyWanDecoder(str(tmp_path))
    with pytest.raises(UserError, match="expected four widths"):
        TinyWanDecoder(channels=(8, 8))
    torch.save(codec.state_dict(), tmp_path / "taew2_1.pth")
    with pytest.raises(UserError, match="do not fit"):
        TinyWanDecoder(str(tmp_path))


def test_bf16_is_close(codec: TinyWanDecoder, latents: Tensor) -> None:
    half = TinyWanDecoder(**SMALL, dtype="bf16")
    half.load_state_dict(codec.state_dict())
    video = half.decode(latents)
    assert video.dtype == torch.float32
    assert (video - codec.decode(latents)).abs().max() < 0.05
