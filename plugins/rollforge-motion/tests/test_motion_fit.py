"""``rollforge fit`` of a flow network: it refines, it resumes bit for bit, and it refuses in a sentence."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from rollforge_motion.modules import KnownMotion, RefinedMotion, pair
from safetensors.torch import load_file

from rollforge.cli import main
from rollforge.errors import UserError
from rollforge.video.writer import VideoWriter

pytestmark = pytest.mark.usefixtures("installed")
CONFIGS = Path(__file__).parents[1] / "configs"
SMALL = [
    *("--data.batch_size", "2", "--model.iterations", "2", "--model.label_iterations", "2"),
    *("--trainer.enable_progress_bar", "false", "--trainer.max_steps", "3"),
]


def fit(folder: Path, *options: str, config: str = "refine-shifted") -> int:
    return main(["fit", "--config", str(CONFIGS / f"{config}.yaml"), "--output_dir", str(folder), *SMALL, *options])


def test_an_interrupted_refinement_continues_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fit(tmp_path / "whole", "--data.train_dataset.domain", "textures") == 0
    losses = RefinedMotion.losses

    def interrupted(module: RefinedMotion, clips: dict) -> dict[str, torch.Tensor]:
        if module.global_step == 1:
            signal.raise_signal(signal.SIGTERM)
        return losses(module, clips)

    monkeypatch.setattr(RefinedMotion, "losses", interrupted)
    with pytest.raises(SystemExit):
        fit(tmp_path / "parts", "--data.train_dataset.domain", "textures")
    monkeypatch.undo()
    assert fit(tmp_path / "parts", "--data.train_dataset.domain", "textures", "--resume") == 0
    whole, parts = (load_file(tmp_path / name / "network.safetensors") for name in ("whole", "parts"))
    first = RefinedMotion().network.state_dict()
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name
    assert any(not torch.equal(value, first[name]) for name, value in whole.items())


def test_it_refines_on_a_folder_of_videos(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "long.mp4", (64, 64), 16) as writer:
        writer.write(np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), np.uint8))
    where = ["--data.train_dataset.init_args.folder", str(tmp_path)]
    assert fit(tmp_path / "run", *where, "--data.train_dataset.init_args.frames", "2", config="refine") == 0
    assert (tmp_path / "run" / "network.safetensors").is_file()
    for name, frames in (("short", 3), ("empty", 0)):
        folder = tmp_path / name
        folder.mkdir()
        if frames:
            with VideoWriter(folder / "a.mp4", (64, 64), 16) as writer:
                writer.write(np.zeros((frames, 64, 64, 3), np.uint8))
        else:
            (folder / "a.mp4").write_bytes(b"")
        assert fit(folder / "run", "--data.train_dataset.init_args.folder", str(folder), config="refine") == 2
        assert not (folder / "run").exists()


def test_a_network_without_a_consistent_pixel_ends_in_a_sentence() -> None:
    module = RefinedMotion(colour=1e-9, label_iterations=1, iterations=1)
    clips = {"video": torch.randint(0, 255, (1, 3, 64, 64, 3), dtype=torch.uint8), "caption": [""]}
    module.without = 18
    losses = module.losses(clips)  # type: ignore[arg-type] # a dict
    assert losses["loss"].item() == 0
    losses["loss"].backward()
    with pytest.raises(UserError, match="found no consistent pixel, so that there is nothing to learn from; raise"):
        module.losses(clips)  # type: ignore[arg-type]


def test_what_cannot_be_trained_on_is_one_sentence() -> None:
    with pytest.raises(UserError, match="one frame long, and motion needs two or more"):
        pair(torch.zeros(1, 1, 8, 8, 3, dtype=torch.uint8), 8)
    with pytest.raises(UserError, match="needs clips with their flow"):
        KnownMotion().losses({"video": torch.zeros(1, 2, 32, 32, 3, dtype=torch.uint8), "caption": [""]})
    with pytest.raises(UserError, match="The pictures are 12x12 pixels"):
        RefinedMotion(label_iterations=1).losses(
            {"video": torch.zeros(1, 2, 12, 12, 3, dtype=torch.uint8), "caption": [""]}
        )
    with pytest.raises(UserError, match=r"RefinedMotion\.colour must be a number above 0"):
        RefinedMotion(colour=0.0)
