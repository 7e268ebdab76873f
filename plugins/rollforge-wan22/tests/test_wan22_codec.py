"""The VAE against diffusers' own calls: at once, block by block, and resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rollforge_wan22.codec import Wan22VAE
from safetensors.torch import save_file
from torch import Tensor

from rollforge.errors import UserError

CELLS = {"5b": 16, "a14b": 8}  # pixels of a latent cell, a side
SPLITS = [(5,), (1, 3, 1), (1,) * 5]


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def codecs(releases: dict[str, Any]) -> dict[str, Wan22VAE]:
    return {name: Wan22VAE(str(release.folder)) for name, release in releases.items()}


def latents(frames: int = 5) -> Tensor:
    return torch.randn(2, frames, 6, 2, 3, generator=torch.Generator().manual_seed(1))


def video(frames: int, cell: int) -> Tensor:
    return torch.rand(2, frames, 3, 2 * cell, 3 * cell, generator=torch.Generator().manual_seed(2))


def statistics(vae: Any) -> tuple[Tensor, Tensor]:
    mean, std = torch.tensor([vae.config.latents_mean, vae.config.latents_std])[..., None, None]
    return mean, std


def at_once(vae: Any, latents: Tensor) -> Tensor:
    """The whole video by diffusers itself, ``[B, T, 3, H, W]`` in 0..1."""
    mean, std = statistics(vae)
    return (vae.decode((latents * std + mean).transpose(1, 2)).sample / 2 + 0.5).transpose(1, 2)


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_stream_equals_decoding_at_once(
    codecs: dict[str, Wan22VAE], releases: dict[str, Any], name: str, sizes: tuple[int, ...]
) -> None:
    stream, expected = codecs[name].stream(), at_once(releases[name].vae, latents())
    decoded = torch.cat([stream(block) for block in latents().split(list(sizes), dim=1)], dim=1)
    assert decoded.shape == (2, 17, 3, 2 * CELLS[name], 3 * CELLS[name])
    assert expected.std() > 0.05
    torch.testing.assert_close(decoded, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("cut", [1, 3])
@pytest.mark.parametrize("name", CELLS)
def test_resumed_stream_continues_with_equal_frames(
    codecs: dict[str, Wan22VAE], releases: dict[str, Any], name: str, cut: int
) -> None:
    first, second = codecs[name].stream(), codecs[name].stream()
    start = first(latents()[:, :cut])
    second.load_state_dict(first.state_dict())
    first(torch.randn_like(latents()))  # the state is a copy
    decoded = torch.cat([start, second(latents()[:, cut:])], dim=1)
    torch.testing.assert_close(decoded, at_once(releases[name].vae, latents()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 5, 13])
@pytest.mark.parametrize("name", CELLS)
def test_encoding_is_the_mode_of_the_posterior_of_diffusers(
    codecs: dict[str, Wan22VAE], releases: dict[str, Any], name: str, frames: int
) -> None:
    vae, (mean, std) = releases[name].vae, statistics(releases[name].vae)
    encoded = codecs[name].encode(video(frames, CELLS[name]))
    mode = vae.encode((video(frames, CELLS[name]) * 2 - 1).transpose(1, 2)).latent_dist.mode()
    assert encoded.shape == (2, (frames + 3) // 4, 6, 2, 3)
    torch.testing.assert_close(encoded, (mode.transpose(1, 2) - mean) / std, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CELLS)
def test_sizes_in_pixels(codecs: dict[str, Wan22VAE], name: str) -> None:
    codec, cell = codecs[name], CELLS[name]
    assert codec.pixel_size(80, 44) == (80 * cell, 44 * cell)
    assert [codec.pixel_frames(n) for n in (0, 1, 2, 21)] == [0, 1, 5, 81]
    with pytest.raises(UserError, match=f"Wan22VAE: a video to encode is .* in multiples of {cell}"):
        codec.encode(torch.rand(1, 1, 3, cell, cell + 4))
    with pytest.raises(UserError, match=r"Wan22VAE: latents are \[2, 5, 4, 2, 3\], expected .* 6, rows"):
        codec.decode(latents()[:, :, :4])


def test_tiles_stream_too(codecs: dict[str, Wan22VAE], releases: dict[str, Any]) -> None:
    tiled = Wan22VAE(str(releases["5b"].folder), tile=2, overlap=1)
    stream, whole = tiled.stream(), tiled.decode(latents())
    decoded = torch.cat([stream(block) for block in latents().split(2, dim=1)], dim=1)
    torch.testing.assert_close(decoded, whole, rtol=0, atol=1e-5)
    assert 1e-4 < (whole - codecs["5b"].decode(latents())).abs().mean() < 0.1  # tiles do make a difference


def test_other_weights_random_ones_and_none(
    codecs: dict[str, Wan22VAE], releases: dict[str, Any], tmp_path: Path
) -> None:
    folder = str(releases["5b"].folder)
    changed = {name: value + 1 for name, value in codecs["5b"].vae.state_dict().items()}
    save_file({f"vae.{name}": value for name, value in changed.items()}, tmp_path / "codec.safetensors")
    with pytest.raises(UserError, match=r"Wan22VAE: the weights in .*codec\.safetensors do not fit"):
        Wan22VAE(folder, weights=str(tmp_path / "codec.safetensors"))
    save_file(changed, tmp_path / "vae.safetensors")
    other = Wan22VAE(folder, weights=str(tmp_path / "vae.safetensors"))
    torch.testing.assert_close(other.vae.state_dict(), changed, rtol=0, atol=0)
    for weights in ("random", None):
        assert Wan22VAE(folder, weights=weights).weights == weights


@pytest.mark.parametrize(("changes", "message"), [
    ({"latents_mean": [0.0]}, "has 1 latents_mean and 6 latents_std for 6 z_dim"),
    ({"latents_std": [0.0] * 6}, r"latents_std\[0\] must be a number above 0"),
    ({"z_dim": 0}, "z_dim must be a whole number"),
    ({"decoder_base_dim": 7, "dim_mult": [3, 1, 2, 4]}, "describes no VAE that diffusers can build"),
    ({"temperal_downsample": [False, True, True, True]}, "has 4 values of temperal_downsample for 4 levels"),
    ({"temperal_downsample": "no"}, "describes no VAE that diffusers can build"),
    ({"base_dim": 8}, "Wan22VAE: the weights in .*vae do not fit this model"),
    ({"_class_name": "AutoencoderKL"}, "does not describe AutoencoderKLWan"),
])  # fmt: skip
def test_invalid_vae_config_raises_one_sentence(
    edited: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Wan22VAE(str(edited("5b", "vae/config.json", **changes)))
    assert "\n" not in str(caught.value)
