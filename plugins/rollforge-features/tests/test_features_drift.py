"""FeatureDrift: VBench's rule on features that are known, in pieces and whole, and inside rollforge."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from rollforge_features.base import Features
from rollforge_features.drift import FeatureDrift
from rollforge_features.extractors import Dino
from torch import Tensor

from rollforge.cli import main
from rollforge.errors import UserError
from rollforge.registry import registry
from rollforge.testing import check_metric


class Corner(Features):
    """The upper left pixel as a vector around grey; counts the frames it sees."""

    name = "corner"

    def __init__(self) -> None:
        self.seen = 0

    def embed(self, frames: Tensor) -> Tensor:
        self.seen += len(frames)
        return frames[:, 0, 0].float() - 128


def test_it_keeps_the_rules_of_a_metric() -> None:
    check_metric(FeatureDrift(Corner()), frames=12, side=16)


def video(*corners: tuple[int, int, int]) -> Tensor:
    return torch.tensor([[[[128 + value for value in corner]]] for corner in corners], dtype=torch.uint8)


def rule(vectors: Tensor) -> list[tuple[float, float]]:
    """VBench's rule, spelled out for the frames after the first."""
    unit = torch.nn.functional.normalize(vectors, dim=1)
    pairs = range(1, len(unit))
    return [(max(0, float(unit[i] @ unit[0])), max(0, float(unit[i] @ unit[i - 1]))) for i in pairs]


def test_vbenchs_rule_by_hand() -> None:
    curves = FeatureDrift(Corner()).update(video((100, 0, 0), (100, 100, 0), (0, 100, 0), (-50, 0, 0)), 0)
    half = 2**-0.5
    nan = float("nan")
    assert curves["corner_to_first"].tolist() == pytest.approx([nan, half, 0, 0], nan_ok=True)
    assert curves["corner_to_previous"].tolist() == pytest.approx([nan, half, half, 0], nan_ok=True)
    assert curves["corner_consistency_proxy"].tolist() == pytest.approx([nan, half, half / 2, 0], nan_ok=True)


def test_clips_are_taken_apart_as_vbench_long_does() -> None:
    """Clips of three frames: the rule within each, and for their first frames."""
    corners = torch.randint(-100, 100, (9, 3), generator=torch.Generator().manual_seed(0)) + torch.tensor([90, 0, 0])
    corners = corners.clamp(-128, 127)
    metric = FeatureDrift(Corner(), clip_seconds=0.375)
    metric.start("", 8.0)
    frames = video(*(tuple(corner) for corner in corners.tolist()))
    parts = [metric.update(frames[start : start + 4], start) for start in (0, 4, 8)]
    within, between = (torch.cat([part[f"corner_{name}"] for part in parts]) for name in ("in_clip", "clip_to_clip"))
    for clip in range(3):
        expected = [sum(pair) / 2 for pair in rule(corners[3 * clip : 3 * clip + 3].double())]
        assert within[3 * clip : 3 * clip + 3].tolist() == pytest.approx(
            [float("nan"), *expected], nan_ok=True, abs=1e-6
        )
    expected = [sum(pair) / 2 for pair in rule(corners[::3].double())]
    assert between[[3, 6]].tolist() == pytest.approx(expected, abs=1e-6)
    assert between.isnan().sum() == 7


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("opening", [1, 2])
def test_pieces_give_what_the_whole_gives(every: int, opening: int, noise) -> None:
    frames = noise(20)
    whole = FeatureDrift(Corner(), every, opening).update(frames, 0)
    metric, at, pieces = FeatureDrift(Corner(), every, opening), 0, []
    for length in (1, 4, 2, 12, 1):
        pieces.append(metric.update(frames[at : at + length], at))
        at += length
    for name, curve in whole.items():
        torch.testing.assert_close(torch.cat([piece[name] for piece in pieces]), curve, equal_nan=True)


def test_a_mean_over_measured_frames_is_vbenchs_score(models: dict[str, Path], noise) -> None:
    dino, frames = Dino(str(models["dinov2"])), noise(8)
    curves = FeatureDrift(dino).update(frames, 0)
    expected = [sum(pair) / 2 for pair in rule(dino.embed(frames))]
    assert curves["dino_consistency_proxy"][1:].tolist() == pytest.approx(expected, abs=1e-5)
    assert curves["dino_consistency_proxy"].nanmean().item() == pytest.approx(sum(expected) / 7, abs=1e-5)


def test_every_nth_frame_is_seen_and_the_others_have_no_number(noise) -> None:
    corner = Corner()
    curves = FeatureDrift(corner, every=4).update(noise(10), 0)
    assert corner.seen == 3
    for name in ("to_first", "to_previous", "consistency_proxy", "clip_to_clip"):
        assert torch.isfinite(curves[f"corner_{name}"]).nonzero().flatten().tolist() == [4, 8]


def test_after_a_gap_the_next_frame_is_measured_and_has_none_before_it(noise) -> None:
    corner, frames = Corner(), noise(30)
    metric = FeatureDrift(corner, every=4)
    metric.update(frames[:5], 0)
    curves = metric.update(frames[21:26], 21)
    assert corner.seen == 4
    assert curves["corner_to_previous"][0].isnan()
    vectors = frames[[0, 21]][:, 0, 0].float() - 128
    assert curves["corner_to_first"][0].item() == pytest.approx(rule(vectors)[0][0], abs=1e-6)


def test_a_second_video_knows_nothing_of_the_first_and_state_is_constant(noise) -> None:
    metric = FeatureDrift(Corner(), opening=3)
    metric.start("one", 8)
    first = metric.update(noise(9, seed=1), 0)
    size = sum(value.numel() for value in metric.state_dict().values() if isinstance(value, Tensor))
    metric.update(noise(90, seed=2), 9)
    assert sum(value.numel() for value in metric.state_dict().values() if isinstance(value, Tensor)) == size
    metric.start("two", 8, anything="more")
    torch.testing.assert_close(metric.update(noise(9, seed=1), 0), first, equal_nan=True)


def test_a_snapshot_goes_on_where_it_was(noise) -> None:
    frames = noise(12)
    one, two = FeatureDrift(Corner(), every=3), FeatureDrift(Corner(), every=3)
    one.update(frames[:7], 0)
    two.load_state_dict(deepcopy(one.state_dict()))
    torch.testing.assert_close(two.update(frames[7:], 7), one.update(frames[7:], 7), equal_nan=True)


def test_settings_and_weights_that_will_not_do_are_refused() -> None:
    with pytest.raises(UserError, match=r"FeatureDrift\.every must be a whole number of 1 or more, not 0"):
        FeatureDrift(Corner(), every=0)

    class Broken(Corner):
        def embed(self, frames: Tensor) -> Tensor:
            return super().embed(frames) * float("nan")

    with pytest.raises(UserError, match="not finite"):
        FeatureDrift(Broken()).update(video((1, 1, 1)), 0)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The entry point that pip would write."""
    info = tmp_path / "site" / "rollforge_features-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rollforge-features\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[rollforge]\nfeatures = rollforge_features\n")
    monkeypatch.syspath_prepend(str(info.parent))
    monkeypatch.setenv("ROLLFORGE_PLUGINS", "features")
    registry.cache_clear()
    yield
    registry.cache_clear()


def test_a_config_names_metric_and_feature_space_shortly(
    installed: None, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "features.yaml").write_text(
        f"""
model:
  backbone: {{class_path: Pocket, init_args: {{weights: random}}}}
  conditioner: PocketText
  codec: {{class_path: PocketCodec, init_args: {{width: 16, weights: random}}}}
  policy: Window
  sampler: {{class_path: Euler, init_args: {{steps: 1}}}}
  metrics:
    - class_path: FeatureDrift
      init_args:
        every: 4
        extractor: {{class_path: Dino, init_args: {{weights: {models["dinov2"]}}}}}
    - class_path: FeatureDrift
      init_args:
        every: 4
        extractor: {{class_path: Clip, init_args: {{weights: {models["clip"]}}}}}
data: {{prompts: [a red ball over snow at day], seconds: 3}}
"""
    )
    line = ["test", "--config", str(tmp_path / "features.yaml"), "--output_dir", str(tmp_path / "out")]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "dino_consistency_proxy" in printed
    assert "clip_to_first" in printed
