"""Wan's VAE at a small random size: streams against diffusers' own calls, placement, weights, mistakes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rollforge.backbones.wan.codec import WanVAE
from rollforge.backbones.wan.tiles import Tiles
from rollforge.errors import UserError
from rollforge.registry import registry

SMALL: dict[str, Any] = {
    "base_dim": 4, "z_dim": 4, "latents_mean": [0.1, -0.2, 0.3, -0.4], "latents_std": [0.5, 1.0, 2.0, 3.0]
}  # fmt: skip
SPLITS = [(5,), (3, 2), (1, 3, 1), (1,) * 5]


@pytest.fixture(scope="module")
def codec() -> WanVAE:
    torch.manual_seed(0)
    return WanVAE(**SMALL)


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(2, 5, 4, 3, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def video() -> Tensor:
    return torch.rand(2, 9, 3, 24, 96, generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def whole(codec: WanVAE, latents: Tensor) -> Tensor:
    """Everything at once, by diffusers itself, ``[B, T, 3, H, W]`` in 0..1."""
    mean, std = (torch.tensor(SMALL[name])[:, None, None] for name in ("latents_mean", "latents_std"))
    decoded = codec.vae.decode((latents * std + mean).transpose(1, 2)).sample
    return (decoded / 2 + 0.5).transpose(1, 2)


def posterior(codec: WanVAE, video: Tensor) -> Tensor:
    mean, std = (torch.tensor(SMALL[name])[:, None, None] for name in ("latents_mean", "latents_std"))
    mode = codec.vae.encode((video * 2 - 1).transpose(1, 2)).latent_dist.mode()
    return (mode.transpose(1, 2) - mean) / std


def in_pieces(codec: WanVAE, latents: Tensor, sizes: tuple[int, ...]) -> Tensor:
    stream = codec.stream()
    return torch.cat([stream(block) for block in latents.split(list(sizes), dim=1)], dim=1)


def test_both_codecs_are_registered() -> None:
    assert registry().find("WanVAE").load() is WanVAE
    assert registry().find("TinyWanDecoder").kind == "codec"


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
def test_a_stream_equals_everything_at_once(codec: WanVAE, latents: Tensor, sizes: tuple[int, ...]) -> None:
    video = in_pieces(codec, latents, sizes)
    assert video.shape == (2, 17, 3, 24, 96)
    assert video.min() >= 0
    assert video.max() <= 1
    torch.testing.assert_close(video, whole(codec, latents), rtol=0, atol=1e-5)


def test_streams_do_not_disturb_each_other(codec: WanVAE, latents: Tensor) -> None:
    one, two = codec.stream(), codec.stream()
    videos: tuple[list[Tensor], list[Tensor]] = [], []
    for n in range(5):
        videos[0].append(one(latents[:, n : n + 1]))
        videos[1].append(two(latents[:, 4 - n : 5 - n]))
        codec.encode(torch.rand(1, 1, 3, 8, 8))
    torch.testing.assert_close(torch.cat(videos[0], dim=1), whole(codec, latents), rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.cat(videos[1], dim=1), whole(codec, latents.flip(1)), rtol=0, atol=1e-5)


def test_what_a_stream_keeps_does_not_grow(codec: WanVAE, latents: Tensor) -> None:
    def kept() -> int:
        return sum(x.untyped_storage().nbytes() for features in stream.state for x in features if isinstance(x, Tensor))

    stream = codec.stream()
    stream(latents[:, :3])
    before = kept()
    stream(latents)
    assert kept() == before > 0


def test_the_first_latent_is_one_pixel_frame(codec: WanVAE, latents: Tensor) -> None:
    assert [codec.pixel_frames(n) for n in (0, 1, 2, 21)] == [0, 1, 5, 81]
    assert codec.pixel_size(104, 60) == (832, 480)
    stream = codec.stream()
    assert stream(latents[:, :1]).shape[1] == 1
    assert stream(latents[:, 1:2]).shape[1] == 4


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_encoding_is_the_mode_of_diffusers_posterior(codec: WanVAE, video: Tensor, frames: int) -> None:
    made = codec.encode(video[:, :frames])
    assert made.shape == (2, (frames + 3) // 4, 4, 3, 12)
    torch.testing.assert_close(made, posterior(codec, video[:, :frames]), rtol=0, atol=1e-5)


def test_an_image_is_the_first_latent_of_any_video_that_starts_with_it(codec: WanVAE, video: Tensor) -> None:
    torch.testing.assert_close(codec.encode(video[:, :1]), codec.encode(video)[:, :1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("frames", "nearest"), [(2, "1 or 5"), (4, "1 or 5"), (8, "5 or 9"), (0, "take 1")])
def test_other_frame_counts_name_the_nearest_that_fit(codec: WanVAE, frames: int, nearest: str) -> None:
    with pytest.raises(UserError, match=rf"{frames} pixel frames cannot be encoded, expected 4n - 3.*{nearest}\."):
        codec.encode(torch.rand(1, frames, 3, 16, 16))


def test_published_statistics_go_with_sixteen_channels() -> None:
    published, plain = WanVAE(base_dim=4), WanVAE(base_dim=4, z_dim=2)
    assert (len(published.mean), published.mean[0], published.std[15]) == (16, -0.7571, 1.916)
    assert (plain.mean, plain.std) == ([0, 0], [1, 1])
    assert published.weights is None


@pytest.mark.parametrize("sizes", SPLITS[1:3], ids=str)
def test_tiles_stream_too(codec: WanVAE, latents: Tensor, sizes: tuple[int, ...]) -> None:
    tiled, latents = tiles_of(codec, tile=2, overlap=1), latents[..., :5]  # two rows of four tiles
    at_once = tiled.decode(latents)
    torch.testing.assert_close(in_pieces(tiled, latents, sizes), at_once, rtol=0, atol=1e-5)
    assert at_once.shape == (2, 17, 3, 24, 40)


def test_tiles_equal_those_of_diffusers_on_a_strip(codec: WanVAE, latents: Tensor, video: Tensor) -> None:
    tiled = tiles_of(codec, tile=8, overlap=2)
    codec.vae.enable_tiling(64, 64, 48, 48)
    try:
        expected, moments = whole(codec, latents), posterior(codec, video)
    finally:
        codec.vae.disable_tiling()
    torch.testing.assert_close(tiled.decode(latents), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(tiled.encode(video), moments, rtol=0, atol=1e-5)
    assert (whole(codec, latents) - expected).abs().max() > 1e-4  # tiles do make a difference


@pytest.mark.parametrize("scale", [1, 8])
def test_tiles_blend_to_what_they_were_cut_from(scale: int) -> None:
    picture, tiles = torch.rand(2, 5 * scale, 11 * scale), Tiles(5, 11, tile=4, overlap=2)
    assert len(tiles.all) == 2 * 5
    torch.testing.assert_close(tiles.blend(tiles.cut(picture, scale), scale), picture)


def test_one_tile_is_the_picture(codec: WanVAE, latents: Tensor) -> None:
    tiled = tiles_of(codec, tile=16, overlap=8)
    torch.testing.assert_close(tiled.decode(latents), codec.decode(latents), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("tile", "overlap", "why"), [(0, 0, "tile must be .* 1 or more"), (8, 5, "at most half"), (8, -1, "0 or more")]
)
def test_tiles_that_cannot_be_laid_are_refused(tile: int, overlap: int, why: str) -> None:
    with pytest.raises(UserError, match=why):
        WanVAE(**SMALL, tile=tile, overlap=overlap)


def tiles_of(codec: WanVAE, **options: Any) -> WanVAE:
    """The same weights, worked on in tiles."""
    tiled = WanVAE(**SMALL, **options)
    tiled.load_state_dict(codec.state_dict())
    return tiled


def test_bf16_is_close_and_answers_in_float32(codec: WanVAE, latents: Tensor, video: Tensor) -> None:
    half = tiles_of(codec, dtype="bf16")
    assert half.precision == torch.bfloat16
    decoded, encoded = half.decode(latents), half.encode(video)
    assert decoded.dtype == encoded.dtype == torch.float32
    assert (decoded - codec.decode(latents)).abs().mean() < 0.02
    assert (encoded - codec.encode(video)).abs().mean() < 0.05


def test_the_precision_of_the_model_is_not_the_codecs(codec: WanVAE, latents: Tensor) -> None:
    moved = nn.Sequential(tiles_of(codec)).to(torch.bfloat16)[0]
    assert moved.precision == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        inside = moved.decode(latents.bfloat16())
    torch.testing.assert_close(inside, codec.decode(latents.bfloat16().float()), rtol=0, atol=1e-5)


def test_a_named_device_keeps_the_codec_there_and_auto_follows(codec: WanVAE, latents: Tensor) -> None:
    stays, follows = WanVAE(**SMALL, device="cpu"), WanVAE(**SMALL)
    nn.ModuleList([stays, follows]).to("meta")
    assert (stays.where.type, follows.where.type) == ("cpu", "meta")
    assert stays.decode(latents).device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_stream_of_its_own_decodes_the_same(codec: WanVAE, latents: Tensor) -> None:
    queued = tiles_of(codec, device="cuda", dtype="fp32", own_stream=True)
    stream = queued.stream()
    asked = [stream.submit(block) for block in latents.cuda().split(2, dim=1)]  # type: ignore[attr-defined]
    video = torch.cat([answer() for answer in asked], dim=1)
    torch.testing.assert_close(video.cpu(), codec.decode(latents), rtol=0, atol=1e-2)


@pytest.mark.parametrize("device", ["gpu", "cuda:97"])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(UserError, match=f"device '{device}' cannot be used here .*expected auto, cpu"):
        WanVAE(**SMALL, device=device)


def test_wrong_shapes_are_told(codec: WanVAE, latents: Tensor) -> None:
    with pytest.raises(UserError, match=r"latents are \[2, 5, 3, 3, 12\], expected \[batch, frames, 4, rows"):
        codec.decode(latents[:, :, :3])
    with pytest.raises(UserError, match="multiples of 8"):
        codec.encode(torch.rand(1, 1, 3, 20, 16))
    with pytest.raises(UserError, match="one for each step"):
        WanVAE(**SMALL, temporal_downsample=(True, True))
    with pytest.raises(UserError, match="expected 3, as z_dim says"):
        WanVAE(**{**SMALL, "z_dim": 3})
    stream = codec.stream()
    stream(latents)
    with pytest.raises(UserError, match="start a new stream"):
        stream(latents[..., :8])


def original_name(name: str) -> str:
    """diffusers' name of a weight to that of the original release."""
    layer = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6"}
    name = re.sub(r"^quant_conv", "conv1", name)
    name = re.sub(r"^post_quant_conv", "conv2", name)
    name = re.sub(r"mid_block\.attentions\.0", "middle.1", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"middle.{2 * int(found[1])}", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda at: f"upsamples.{4 * int(at[1]) + int(at[2])}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda at: f"upsamples.{4 * int(at[1]) + 3}", name)
    name = name.replace("down_blocks", "downsamples").replace("conv_shortcut", "shortcut")
    name = re.sub(r"(?<=\d\.)(norm1|conv1|norm2|conv2)", lambda found: layer[found[1]], name)
    return name.replace("conv_in", "conv1").replace("norm_out", "head.0").replace("conv_out", "head.2")


@pytest.fixture
def published(codec: WanVAE, tmp_path: Path) -> Path:
    """A folder with both published layouts of the same weights, and a transformer next to them as in the original."""
    codec.vae.save_pretrained(tmp_path / "diffusers" / "vae")
    original = {original_name(name): value for name, value in codec.vae.state_dict().items()}
    assert "decoder.upsamples.4.shortcut.weight" in original
    (tmp_path / "original").mkdir()
    torch.save(original, tmp_path / "original" / "Wan2.1_VAE.pth")
    save_file({"head": torch.zeros(1)}, tmp_path / "original" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "original" / "config.json").write_text('{"_class_name": "WanModel"}')
    return tmp_path


@pytest.mark.parametrize(
    ("weights", "says_sizes"),
    [
        ("diffusers", True),
        ("diffusers/vae", True),
        ("diffusers/vae/diffusion_pytorch_model.safetensors", True),
        ("original", False),
        ("original/Wan2.1_VAE.pth", False),
    ],
)
def test_weights_of_either_layout(codec: WanVAE, published: Path, weights: str, says_sizes: bool) -> None:
    loaded = WanVAE(str(published / weights), **({} if says_sizes else SMALL))
    assert loaded.weights == str(published / weights)
    assert (loaded.mean, loaded.std) == (SMALL["latents_mean"], SMALL["latents_std"])
    assert all(torch.equal(value, codec.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_weights_that_do_not_fit_or_cannot_be_read(published: Path) -> None:
    file = published / "original" / "Wan2.1_VAE.pth"
    with pytest.raises(UserError, match=r"do not fit this model: .* is \[.*\], expected \["):
        WanVAE(str(file), **{**SMALL, "base_dim": 8})
    torch.save({"state": Runs()}, file)
    with pytest.raises(UserError, match="which could run code and is not opened"):
        WanVAE(str(file), **SMALL)
    torch.save({"generator": {}}, file)
    with pytest.raises(UserError, match="holds a value of type dict under generator"):
        WanVAE(str(file), **SMALL)
    file.unlink()
    with pytest.raises(UserError, match="holds none of vae/"):
        WanVAE(str(published / "original"))
    with pytest.raises(UserError, match="there is nothing at"):
        WanVAE(str(file))


class Runs:
    """What an unsafe reader would call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("code in a weights file was run",))


def test_the_vae_of_another_family_is_refused(published: Path) -> None:
    config = published / "diffusers" / "vae" / "config.json"
    config.write_text(config.read_text().replace('"patch_size": null', '"patch_size": 2'))
    with pytest.raises(UserError, match=r"is the VAE of Wan 2.2, expected that of Wan 2.1"):
        WanVAE(str(published / "diffusers"))


def test_a_hub_name_is_fetched(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def fetch(repository: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(published / repository.rpartition("/")[2])

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert WanVAE("Wan-AI/diffusers").latent_channels == 4
    assert WanVAE("Wan-AI/original", **SMALL).latent_channels == 4
    assert WanVAE("Wan-AI/original:Wan2.1_VAE.pth", **SMALL).latent_channels == 4
    assert asked[0] == ["vae/config.json", "vae/diffusion_pytorch_model.safetensors", "Wan2.1_VAE.pth"]
    assert asked[2] == ["Wan2.1_VAE.pth", "config.json"]


def test_a_hub_out_of_reach_says_what_to_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(UserError, match=r"no network.*download Wan-AI/Wan2.1-T2V-1.3B-Diffusers --include vae/config"):
        WanVAE("Wan-AI/Wan2.1-T2V-1.3B-Diffusers")


def test_without_diffusers_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"pip install 'rollforge\[wan\]'"):
        WanVAE(**SMALL)
