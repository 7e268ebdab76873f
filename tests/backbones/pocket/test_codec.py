"""Pocket's codec: its contract with random weights, and how good the shipped ones are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.weights import shipped
from rollforge.data.world import all_scenes, held_out, render
from rollforge.errors import UserError


@pytest.fixture(scope="module")
def codec() -> PocketCodec:
    return PocketCodec(weights="pocket").eval()


@pytest.fixture(scope="module")
def unseen() -> Tensor:
    """Frames of captions that training never saw, ``[16, 2, 3, 64, 64]`` in 0..1."""
    scenes = [scene for scene in all_scenes() if held_out(scene)][::10]
    videos = [torch.from_numpy(render(scene, seed, 2)[0]) for seed, scene in enumerate(scenes)]
    return torch.stack(videos).permute(0, 1, 4, 2, 3).float() / 255


def psnr(one: Tensor, two: Tensor) -> float:
    return float(-10 * (one - two).square().mean().log10())


@torch.no_grad()
@pytest.mark.parametrize("channels", [4, 8])
def test_one_latent_frame_for_each_pixel_frame(channels: int) -> None:
    codec = PocketCodec(channels=channels, width=16).eval()
    latents = codec.encode(torch.rand(2, 3, 3, 64, 64))
    assert latents.shape == (2, 3, channels, 8, 8)
    video = codec.decode(latents)
    assert video.shape == (2, 3, 3, 64, 64)
    assert video.min() >= 0
    assert video.max() <= 1
    assert codec.pixel_frames(7) == 7
    assert codec.pixel_size(8, 8) == (64, 64)


@torch.no_grad()
def test_pieces_decode_like_the_whole(codec: PocketCodec, unseen: Tensor) -> None:
    latents = codec.encode(unseen[:2])
    stream = codec.stream()
    pieces = torch.cat([stream(latents[:, :1]), stream(latents[:, 1:])], dim=1)
    torch.testing.assert_close(pieces, codec.decode(latents), rtol=0, atol=1e-5)


def test_loss_reaches_every_weight_and_falls() -> None:
    torch.manual_seed(0)
    codec = PocketCodec(width=16)
    video = torch.from_numpy(render(all_scenes()[0], 0, 2)[0]).permute(0, 3, 1, 2)[:, None].float() / 255
    optimiser = torch.optim.Adam(codec.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        parts = codec.loss(video)
        parts["loss"].backward()
        optimiser.step()
        losses.append(parts["loss"].item())
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in codec.parameters())
    assert losses[-1] < 0.8 * losses[0]
    assert set(parts) == {"loss", "l1", "psnr"}


@torch.no_grad()
def test_shipped_latents_have_zero_mean_and_unit_variance(codec: PocketCodec, unseen: Tensor) -> None:
    latents = codec.encode(unseen).transpose(0, 2).flatten(1)
    assert latents.mean(dim=1).abs().max() < 0.15
    assert (latents.std(dim=1) - 1).abs().max() < 0.15


@torch.no_grad()
def test_shipped_codec_is_faithful_on_unseen_captions_and_forgives_noise(codec: PocketCodec, unseen: Tensor) -> None:
    latents = codec.encode(unseen)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    clean = psnr(codec.decode(latents), unseen)
    assert clean > 28
    assert psnr(codec.decode(latents + 0.2 * noise), unseen) > clean - 1
    assert psnr(codec.decode(latents + 0.35 * noise), unseen) > clean - 2.5


def test_shipped_codec_is_small(codec: PocketCodec) -> None:
    assert shipped("codec").stat().st_size + shipped("pocket").stat().st_size < 16_000_000
    assert all(value.isfinite().all() for value in codec.state_dict().values())


def test_weights_come_back_from_a_file(tmp_path: Path) -> None:
    saved = PocketCodec(width=16)
    save_file(saved.state_dict(), tmp_path / "codec.safetensors")
    loaded = PocketCodec(width=16, weights=str(tmp_path / "codec.safetensors"))
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in loaded.state_dict().items())
    with pytest.raises(UserError, match="do not fit this model"):
        PocketCodec(width=32, weights=str(tmp_path / "codec.safetensors"))
