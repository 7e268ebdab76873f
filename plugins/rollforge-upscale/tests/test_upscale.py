"""The upscaler: the contract, how fast and how large it is, what its weights do, and what it refuses."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rollforge_upscale.network import Recurrent
from rollforge_upscale.upscale import Upscale
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import interpolate

from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.cli import main
from rollforge.data.world import all_scenes, held_out, render
from rollforge.errors import UserError
from rollforge.finish import Enlarge, Finish
from rollforge.testing import check_finish
from rollforge.video.reader import probe

pytestmark = pytest.mark.usefixtures("installed")
GAIN = 1.0  # dB, at least
TINY = {"class_path": "Upscale", "init_args": {"factor": 2, "width": 8, "blocks": 1}}


def stirred(**options: Any) -> Upscale:
    """A small stage whose every weight matters."""
    torch.manual_seed(0)
    stage = Upscale(width=8, blocks=1, weights="random", **options)
    for weight in stage.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return stage.eval().requires_grad_(False)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_it_keeps_the_rules_of_a_stage_after_the_codec(factor: Any) -> None:
    check_finish(stirred(factor=factor))


def test_a_frame_has_the_same_bits_wherever_blocks_end_and_after_resuming() -> None:
    stage, frames = stirred(), torch.rand(1, 7, 3, 16, 24)
    full = stage.stream()(frames)
    for pieces in ((1,) * 7, (3, 4), (2, 5)):
        first, *rest = frames.split(pieces, dim=1)
        stream = stage.stream()
        made = [stream(first)]
        for piece in rest:
            resumed = stage.stream()
            resumed.load_state_dict(stream.state_dict())
            stream = resumed
            made.append(stream(piece))
        assert torch.equal(torch.cat(made, dim=1), full)
    alone = torch.cat([stage.stream()(frame) for frame in frames.split(1, dim=1)], dim=1)
    assert not torch.equal(alone[:, 1:], full[:, 1:])  # it does remember


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_an_untrained_network_is_bilinear_interpolation_and_the_loss_that_of_charbonnier(factor: int) -> None:
    frames = torch.rand(2, 3, 3, 8, 12)
    larger = interpolate(frames.flatten(0, 1), scale_factor=factor, mode="bilinear").unflatten(0, (2, 3))
    torch.testing.assert_close(Recurrent(factor, 8, 1)(frames), larger)
    true = torch.rand_like(larger)
    losses = Upscale(factor, 8, 1, weights="random").loss(frames, true)  # type: ignore[arg-type] # any of the three
    root = ((larger - true) ** 2 + 0.01).sqrt().mean()
    torch.testing.assert_close(losses["loss"].detach(), (root - 0.1) / 0.1)
    torch.testing.assert_close(losses["psnr"], -10 * ((larger - true) ** 2).mean().log10())


def test_it_is_small_and_about_as_fast_as_the_decoder() -> None:
    stage = Upscale(weights="pocket").eval().requires_grad_(False)
    assert sum(weight.numel() for weight in stage.parameters()) <= 100_000
    codec = PocketCodec(weights="random").eval().requires_grad_(False)
    block, latents = torch.rand(1, 3, 3, 64, 64), torch.randn(1, 3, 8, 8, 8)
    works: dict[str, Any] = {"decode": partial(codec.stream(), latents), "upscale": partial(stage.stream(), block)}
    times = {name: min(seconds(work) for _ in range(15)) for name, work in works.items()}
    print({name: f"{1000 * time:.1f} ms a block of Pocket" for name, time in times.items()})  # noqa: T201 - the proof
    assert times["upscale"] < 3 * times["decode"]


def seconds(work: Any) -> float:
    before = process_time()
    work()
    return process_time() - before


def held_out_clips() -> tuple[Tensor, Tensor]:
    """Eight held-out scenes of two frames: as Pocket's codec decodes them, and at 256."""
    codec = PocketCodec(weights="pocket").eval().requires_grad_(False)
    scenes = [scene for scene in all_scenes() if held_out(scene)][::19][:8]
    small, large = (
        torch.from_numpy(np.stack([render(scene, n, 2, size=size)[0] for n, scene in enumerate(scenes)]))
        .permute(0, 1, 4, 2, 3).float() / 255
        for size in (64, 256)
    )  # fmt: skip
    return codec.decode(codec.encode(small)), large


def sharpness(frames: Tensor) -> float:
    """Mean square of the differences between neighbours."""
    return float(sum(frames.diff(dim=axis).square().mean() for axis in (-1, -2)))


def test_the_shipped_weights_are_nearer_and_sharper_than_bicubic_interpolation() -> None:
    decoded, true = held_out_clips()
    found = {}
    stages: dict[str, Finish] = {"Enlarge": Enlarge(4), "Upscale": Upscale(weights="pocket")}
    for name, stage in stages.items():
        made = stage.eval().requires_grad_(False).stream()(decoded)
        error = (made - true).square().mean((1, 2, 3, 4))
        found[name] = -10 * error.log10(), sharpness(made) / sharpness(true)
        psnr, edges = found[name][0].mean(), found[name][1]
        print(f"{name}: PSNR {psnr:.2f} dB, edges {edges:.2f} of the true ones")  # noqa: T201
    gain = found["Upscale"][0] - found["Enlarge"][0]
    assert gain.min() > -0.1  # one scene is level with it
    assert gain.mean() > GAIN
    assert found["Upscale"][1] > 1.3 * found["Enlarge"][1]


def test_a_long_video_stays_as_it_was() -> None:
    stage = Upscale(weights="pocket").eval().requires_grad_(False)
    frame = held_out_clips()[0][:1, :1, :, 16:48, 16:48]
    stream = stage.stream()
    settled = stream(frame.expand(-1, 30, -1, -1, -1))[:, -1]
    later = stream(frame.expand(-1, 300, -1, -1, -1))[:, -1]
    assert (later - settled).abs().max() < 0.01


def config(folder: Path) -> Path:
    """A small model that trains its upscaler, and rolls."""
    text = {
        "model": {
            "backbone": {
                "class_path": "Pocket",
                "init_args": {
                    "dim": 32, "layers": 1, "heads": 2, "ffn_dim": 64, "window": 6, "horizon": 6, "weights": "random",
                },
            },
            "conditioner": "PocketText",
            "codec": {"class_path": "PocketCodec", "init_args": {"width": 16, "weights": "random"}},
            "policy": {"class_path": "Window", "init_args": {"context_blocks": 2}},
            "sampler": {"class_path": "Euler", "init_args": {"steps": 1}},
            "finish": TINY,
            "objective": {"class_path": "Restoration", "init_args": {"noise": 0.1}},
            "multigrid": {"stages": [{"steps": 2, "lengths": [2], "size": 0.5}], "rate": "sqrt"},
            "ema": 0.5,
        },
        "data": {
            "prompts": ["a red ball over snow at day"], "seconds": 0.75, "batch_size": 1,
            "train_dataset": {"class_path": "WorldClips", "init_args": {"frames": 4, "size": 128}},
        },
        "trainer": {"max_steps": 4, "logger": False, "enable_progress_bar": False},
        "report_every": 10,
    }  # fmt: skip
    (folder / "tiny.yaml").write_text(yaml.safe_dump(text))
    return folder / "tiny.yaml"


def run(command: str, file: Path, out: Path, *more: str) -> Path:
    assert main([command, "--config", str(file), "--output_dir", str(out), *more]) == 0
    return out


def test_fit_resumes_bit_for_bit_and_its_checkpoint_rolls(tmp_path: Path) -> None:
    file = config(tmp_path)
    whole = run("fit", file, tmp_path / "whole")
    run("fit", file, tmp_path / "parts", "--trainer.max_steps", "1")
    parts = run("fit", file, tmp_path / "parts", "--resume")
    one, other = (load_file(folder / "finish.safetensors") for folder in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["network.head.weight"], Recurrent(2, 8, 1).head.weight)
    rolled = run("predict", file, tmp_path / "rolled", "--ckpt_path", str(whole / "last.ckpt"))
    shown = probe(next(rolled.glob("*.mp4")))
    assert (shown.width, shown.height) == (128, 128)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Upscale(width=16, weights="pocket"), r"do not fit this model: .*expected \[16, .*Check the sizes"),
        (lambda: Upscale(factor=2, weights="pocket"), r"network.last.weight is \[48, .*expected \[12,"),
        (lambda: Upscale(blocks=3, weights="pocket"), "do not fit this model: network.body.2"),
        (lambda: Upscale(factor=5), "factor"),  # type: ignore[arg-type] # so it is
        (lambda: Upscale(weights="nowhere.safetensors"), "nowhere.safetensors"),
        (lambda: Upscale().pixel_size(6, 64), "frames of 8 pixels or more with even edges, not 6x64"),
        (lambda: Upscale().pixel_size(64, 63), "even edges, not 64x63"),
        (
            lambda: Upscale().loss(torch.rand(1, 1, 3, 19, 19), torch.rand(1, 1, 3, 76, 76)),
            "not 19x19; .* another size in the stages of model.multigrid",
        ),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_one_sentence(make: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        make()
    assert "\n" not in str(caught.value)
