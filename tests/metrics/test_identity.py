"""Whether a video is still its own: against its opening, and against that of another seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rollforge.data.world import Scene, render
from rollforge.errors import UserError
from rollforge.metrics.identity import ThingColours
from rollforge.metrics.truth import OPENING, WorldTruth
from rollforge.video.writer import VideoWriter

PROMPT = "a red ball and a blue box over grass at day"


def video(seed: int, frames: int = 40) -> Tensor:
    return torch.from_numpy(render(Scene.parse(PROMPT), seed, frames)[0])


def finished(folder: Path, seed: int, frames: int = 40, scale: int = 4) -> Path:
    """The folder of a run that has made the true video of a seed."""
    made = video(seed, frames)
    with VideoWriter(folder / "000.mp4", (made.shape[2], made.shape[1]), 16.0, scale=scale) as writer:
        writer.write(made.numpy())
    (folder / "manifest.json").write_text(
        json.dumps({"complete": True, "videos": [{"file": "000.mp4", "prompt": PROMPT, "complete": True}]})
    )
    return folder


def curves(metric: WorldTruth, frames: Tensor, *cuts: int) -> dict[str, Tensor]:
    metric.start(PROMPT, 16.0)
    pieces = [metric.update(piece, start) for piece, start in zip(frames.tensor_split(cuts), (0, *cuts), strict=True)]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def test_a_video_is_nearer_to_its_own_opening_than_to_that_of_another_seed(tmp_path: Path) -> None:
    metric = WorldTruth(other=str(finished(tmp_path, 1)))
    own = curves(metric, video(0))
    late = {name: own[name][OPENING:].nanmean().item() for name in ("landscape", "landscape_gap", "colour_gap")}
    assert late["landscape"] == pytest.approx(0, abs=0.05)
    assert late["landscape_gap"] < -0.4
    assert abs(late["colour_gap"]) < 0.02  # the caption fixes the colours of the things
    swapped = torch.cat([video(0)[:OPENING], video(1)[:OPENING]])  # the picture becomes the other seed's
    assert curves(metric, swapped)["landscape_gap"][OPENING:].nanmean().item() > 0.2
    plain = curves(WorldTruth(), video(0))
    assert plain.keys() == own.keys() - {"landscape_gap", "colour_gap"}
    assert all(torch.equal(plain[name].nan_to_num(-9), own[name].nan_to_num(-9)) for name in plain)


def test_colours_are_compared_with_the_opening_by_hand() -> None:
    colours = torch.zeros(4, 2, 3)
    colours[0], colours[1] = 0.1, 0.3  # of the opening: two frames, the second thing is found in one
    colours[2, 0], colours[3] = 0.6, 0.5
    found = torch.tensor([[True, True], [True, False], [True, False], [True, True]])
    changed = ThingColours(2, 2).changed(colours, found)
    assert changed[2].item() == pytest.approx(0.4)  # from 0.2, the first thing alone
    assert changed[3].item() == pytest.approx((0.3 + 0.4) / 2)


def test_it_keeps_the_rules_of_a_metric_in_any_pieces(tmp_path: Path) -> None:
    folder = finished(tmp_path, 3)
    whole, pieces = (curves(WorldTruth(other=str(folder)), video(2), *cuts) for cuts in ((), (9, 21, 30)))
    for name, curve in whole.items():
        np.testing.assert_allclose(curve[OPENING:], pieces[name][OPENING:], atol=1e-4, err_msg=name)
    first, second = WorldTruth(other=str(folder)), WorldTruth(other=str(folder))
    for metric in (first, second):
        metric.start(PROMPT, 16.0)
    first.update(video(2)[:24], 0)
    second.load_state_dict(first.state_dict())
    for name, curve in second.update(video(2)[24:], 24).items():
        np.testing.assert_allclose(curve, whole[name][24:], atol=1e-4, err_msg=name)


def test_another_run_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    finished(tmp_path, 1, frames=12)
    metric = WorldTruth(other=str(tmp_path))
    metric.start(PROMPT, 16.0)
    with pytest.raises(UserError, match="has 12 frames"):
        metric.update(video(0)[:9], 0)
    metric.start("a red ball over snow at day", 16.0)
    with pytest.raises(UserError, match="no finished video of 'a red ball over snow at day'"):
        metric.update(video(0)[:9], 0)
