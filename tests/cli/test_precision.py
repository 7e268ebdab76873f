"""``--trainer.precision``: the same videos and losses in every true precision, up to its rounding."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from rollforge.video.reader import frames

DTYPES = {"64-true": torch.float64, "bf16-true": torch.bfloat16, "16-true": torch.float16}
LEVELS = {"64-true": 0.2, "bf16-true": 4.0, "16-true": 2.0}  # mean difference to float32, of 255
LOSSES = {"64-true": 1e-5, "bf16-true": 0.03, "16-true": 1e-3}  # relative


@pytest.fixture
def opened(tiny: Any) -> Any:
    """The tiny config with a picture as its opening."""
    picture = tiny.folder / "opening.png"
    Image.new("RGB", (64, 64), (200, 40, 40)).save(picture)
    tiny.config["data"] |= {"opening": str(picture), "seconds": 1.5}
    return tiny


def video(folder: Path) -> Any:
    (file,) = sorted(folder.glob("*.mp4"))
    return np.stack(list(frames(file))).astype(float)


@pytest.mark.parametrize(
    ("command", "precisions"), [("predict", DTYPES), pytest.param("test", ("64-true",), marks=pytest.mark.matrix)]
)
def test_a_video_is_the_same_in_every_precision(opened: Any, command: str, precisions: Any) -> None:
    for precision in ("32-true", *precisions):
        out = opened.folder / precision
        assert opened.run(command, "--trainer.precision", precision, "--output_dir", str(out)) == 0, precision
    expected = video(opened.folder / "32-true")
    for precision in precisions:
        assert np.abs(video(opened.folder / precision) - expected).mean() < LEVELS[precision], precision


@pytest.mark.parametrize(
    ("objective", "precisions"),
    [pytest.param("DiffusionForcing", DTYPES, marks=pytest.mark.matrix), ("Reconstruction", ("64-true",))],
)
def test_training_is_the_same_in_every_precision(opened: Any, objective: str, precisions: Any) -> None:
    opened.config["model"]["objective"] = {"class_path": objective}
    opened.config["data"] |= {"clips": {"class_path": "WorldClips", "init_args": {"frames": 6}}, "batch_size": 1}
    found = {}
    for precision in ("32-true", *precisions):
        out = opened.folder / precision
        line = ["--trainer.precision", precision, "--trainer.max_steps", "2", "--output_dir", str(out)]
        assert opened.run("fit", *line) == 0, precision
        with (out / "losses.csv").open(newline="") as rows:
            found[precision] = [float(row["loss"]) for row in csv.DictReader(rows)]
        assert (out / "samples-000002.png").exists()
    assert len(found["32-true"]) == 2
    for precision in precisions:
        steps = 1 if precision == "16-true" else 2  # Adam's second moments are 0 in float16, and the user is warned
        assert found[precision][:steps] == pytest.approx(found["32-true"][:steps], rel=LOSSES[precision]), precision
    if objective == "DiffusionForcing":  # the codec keeps its own format
        for precision, dtype in DTYPES.items():
            written = load_file(opened.folder / precision / "backbone.safetensors")
            assert {value.dtype for value in written.values()} == {dtype}
