"""The shipped encoder as a feature space: what it tells apart, and which weights it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from rollforge_features.drift import FeatureDrift
from rollforge_persistence.command import run
from rollforge_persistence.encoder import Encoder
from rollforge_persistence.labels import LABELS, labelled
from rollforge_persistence.probe import linear_layer, nearest, probe
from rollforge_persistence.space import Persistent
from rollforge_persistence.weights import directions, load, shipped
from safetensors.torch import load_file, save_file
from torch import Tensor

from rollforge.data.world import Scene, render
from rollforge.errors import UserError

BALL = "a red ball over grass at day"


def video(caption: str, seed: int = 3, frames: int = 8) -> Tensor:
    return torch.from_numpy(render(Scene.parse(caption), seed, frames)[0])


def to_first(space: Persistent, *videos: Tensor) -> float:
    """The last value of ``to_first`` of videos that follow each other."""
    metric = FeatureDrift(space)
    curves = [metric.update(each, 8 * n) for n, each in enumerate(videos)]
    return float(curves[-1][f"{space.name}_to_first"][-1])


@pytest.mark.parametrize("part", ["all", "scene"])
def test_another_scene_is_further_from_the_opening_than_a_later_moment(part: str) -> None:
    space = Persistent(part)  # type: ignore[arg-type]
    start = video(BALL)
    same, other = to_first(space, start), to_first(space, start, video("a red ball over snow at night"))
    assert same > 0.5
    assert other < same - 0.3


def test_features_do_not_depend_on_the_batch_and_are_of_any_frame_size() -> None:
    frames = video("a blue cone over sand at dusk")
    space, one = Persistent(), Persistent(batch=1)
    assert torch.allclose(space.embed(frames), one.embed(frames), atol=1e-4)
    larger = frames.repeat_interleave(2, 1).repeat_interleave(2, 2)
    near = torch.nn.functional.cosine_similarity(space.embed(larger), space.embed(frames))
    assert near.min() > 0.95


def test_features_of_another_width_than_those_before_are_refused(tmp_path: Path) -> None:
    save_file(Encoder(16).state_dict(), tmp_path / "narrow.safetensors")
    metric, narrow = FeatureDrift(Persistent()), FeatureDrift(Persistent(weights=str(tmp_path / "narrow.safetensors")))
    metric.update(video(BALL), 0)
    narrow.load_state_dict(metric.state_dict())
    with pytest.raises(UserError, match="features of width 16, and those of the frames before are of width 96"):
        narrow.update(video(BALL), 8)


@pytest.mark.parametrize(
    ("change", "part", "message"),
    [
        (lambda t: t | {"mean": torch.zeros(7)}, "all", r"of width 96, and the stored mean has the shape \[7\]"),
        (lambda t: t | {"mean": torch.zeros(())}, "all", r"the stored mean has the shape \[\]"),
        (lambda t: t | {"identity": torch.zeros(96)}, "identity", r"the stored identity has the shape \[96\]"),
        (lambda t: t | {"encoder.frames.0.weight": torch.zeros(5000, 1, 1, 1)}, "all", "from 16 to 4,096, not 20000"),
        (lambda t: {n: v for n, v in t.items() if n != "identity"}, "identity", "does not say which part"),
        (lambda t: {"other": torch.zeros(2)}, "all", "holds no encoder"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: object, part: str, message: str, tmp_path: Path) -> None:
    save_file(change(load_file(shipped())), file := tmp_path / "own.safetensors")  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        Persistent(part, str(file))  # type: ignore[arg-type]


def test_both_readings_find_what_is_there() -> None:
    drawn = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = torch.eye(3)[labels].repeat(1, 2) * 5 + torch.randn(60, 6, generator=drawn)
    assert (linear_layer(features, labels, 3)(features).argmax(1) == labels).all()
    assert (nearest(features[:40], labels[:40], features[40:]) == labels[40:]).all()


def test_directions_span_what_a_layer_tells_apart() -> None:
    layer = torch.tensor([[1.0, 5.0, 0.0], [-1.0, 5.0, 0.0]])
    assert torch.allclose(directions([layer]).abs(), torch.tensor([[1.0, 0.0, 0.0]]), atol=1e-6)


def test_ground_and_time_can_be_read_off_the_shipped_encoder(capsys: pytest.CaptureFixture[str]) -> None:
    found = probe(load(shipped())[0], labelled(150, 1), labelled(100, 2))
    figures = {name: found.linear[name].mean().item() for name in LABELS}
    with capsys.disabled():
        sys.stdout.write(f"\nlinear probe of the shipped encoder: {figures}\n")
    assert figures["time"] > 0.95
    assert figures["ground"] > 0.7


def test_the_command_prints_intervals_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(Encoder(16).state_dict(), file := tmp_path / "encoder.safetensors")
    saved = tmp_path / "probed.safetensors"
    run([str(file), "--videos", "60", "--held_out", "30", "--save", str(saved)])
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 2 + 2 * 3
    assert rows[0].startswith("| features | reading | colour | shape | ground | time | mean")
    assert " to " in rows[2]
    assert Persistent("identity", str(saved)).embed(video(BALL)).shape[1] <= 6
    with pytest.raises(UserError, match="at most 100,000 frames in all"):
        run([str(file), "--videos", "99999", "--frames", "99"])
    with pytest.raises(UserError, match="--held_out: must be a whole number of 2 or more"):
        run([str(file), "--held_out", "1"])
    with pytest.raises(UserError, match="--save writes one encoder"):
        run([str(file), str(file), "--save", str(saved)])
