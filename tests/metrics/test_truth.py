"""WorldTruth: true videos score as true, and each kind of damage moves the measure that is named after it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rollforge.data.world import Scene, render, sprite
from rollforge.metrics.truth import WorldTruth

FRAMES = 48
ONE = "a red ball over snow at day"
FAR = "a green cone and a blue box over sand at night"  # seed 3 keeps them apart
PROMPTS = [ONE, FAR, "a yellow box and a purple ball over grass at dusk"]
Damage = Callable[[Tensor], Tensor]


@cache
def video(prompt: str, seed: int = 3) -> Tensor:
    return torch.from_numpy(render(Scene.parse(prompt), seed, FRAMES)[0])


def measured(prompt: str, shown: Tensor, block: int = 12) -> dict[str, Tensor]:
    """Every curve, measured block by block."""
    metric = WorldTruth()
    metric.start(prompt, 8.0)
    parts = [metric.update(shown[start : start + block], start) for start in range(0, len(shown), block)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def means(prompt: str, shown: Tensor) -> dict[str, float]:
    """Means after the opening, which repetition compares with."""
    return {name: float(curve[24:].mean()) for name, curve in measured(prompt, shown).items()}


@cache
def true_means(prompt: str) -> dict[str, float]:
    return means(prompt, video(prompt))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_true_videos_score_as_true(prompt: str) -> None:
    """Over several videos: in one, a thing may be hidden behind the other for a while."""
    seeds = [means(prompt, video(prompt, seed)) for seed in (2, 3, 4)]
    scores = {name: float(np.mean([one[name] for one in seeds])) for name in seeds[0]}
    assert scores["presence"] > 0.9
    assert scores["colour_error"] < 0.04
    assert scores["background_error"] < 0.04
    assert scores["tint"] < 0.02
    assert scores["landscape"] < 0.1
    assert scores["sharpness"] == pytest.approx(1, abs=0.35)
    assert 0.25 < scores["motion"] < 1.1
    assert scores["repetition"] < 0.9


def test_the_blocks_it_comes_in_do_not_matter() -> None:
    whole, pieces = (measured(FAR, video(FAR), block) for block in (FRAMES, 3))
    for name, curve in whole.items():
        assert curve.shape == (FRAMES,)
        later = (
            slice(21, None) if name in ("repetition", "tint", "skyline", "landscape") else slice(None)
        )  # the opening comes block by block
        torch.testing.assert_close(pieces[name][later], curve[later], rtol=1e-4, atol=1e-4)


def test_one_object_measures_one_video_after_another() -> None:
    metric = WorldTruth()
    metric.start(ONE, 8.0)
    metric.update(video(ONE), 0)
    metric.start(FAR, 8.0)
    for name, curve in metric.update(video(FAR), 0).items():
        torch.testing.assert_close(curve, measured(FAR, video(FAR), FRAMES)[name])


def test_truth_is_the_rendered_scene() -> None:
    assert torch.equal(WorldTruth().truth(FAR, 3, FRAMES), video(FAR))


def instead(prompt: str, other: str) -> dict[str, float]:
    """Scores against ``prompt`` of the same moments of another scene."""
    return means(prompt, video(other))


def changed(prompt: str, scores: dict[str, float]) -> dict[str, float]:
    return {name: value - true_means(prompt)[name] for name, value in scores.items()}


def test_a_removed_thing_is_missed_and_the_landscape_is_not_blamed() -> None:
    truth = render(Scene.parse(ONE), 3, 1)[1]
    empty = (torch.from_numpy(np.asarray(truth.background)) * 255).round().to(torch.uint8)
    change = changed(ONE, means(ONE, empty.expand(FRAMES, -1, -1, -1)))
    assert change["presence"] < -0.9
    assert abs(change["background_error"]) < 0.02


def test_one_thing_of_two_is_half() -> None:
    change = changed(FAR, instead(FAR, "a green cone over sand at night"))
    assert change["presence"] == pytest.approx(-0.5, abs=0.1)
    assert abs(change["background_error"]) < 0.03


def test_a_wrong_colour_is_missed_and_measured() -> None:
    change = changed(ONE, instead(ONE, "a blue ball over snow at day"))
    assert change["presence"] < -0.9
    assert change["colour_error"] > 0.1
    assert abs(change["background_error"]) < 0.02
    assert abs(change["motion"]) < 0.5


def test_a_slightly_wrong_colour_is_measured_though_the_thing_is_found() -> None:
    tinted = video(ONE).float() * torch.tensor([0.85, 1.0, 1.0])
    red = (video(ONE)[..., 0] > 150) & (video(ONE)[..., 1] < 90)
    shown = torch.where(red[..., None], tinted, video(ONE).float()).round().to(torch.uint8)
    change = changed(ONE, means(ONE, shown))
    assert abs(change["presence"]) < 0.05
    assert change["colour_error"] > 0.01
    assert abs(change["background_error"]) < 0.01


def test_a_wrong_shape_is_missed_though_the_colour_is_right() -> None:
    change = changed(ONE, instead(ONE, "a red box over snow at day"))
    assert change["presence"] < -0.9
    assert abs(change["background_error"]) < 0.02


@pytest.mark.parametrize("other", ["a red ball over grass at day", "a red ball over snow at dusk"])
def test_a_wrong_landscape_is_an_error_of_the_background_alone(other: str) -> None:
    change = changed(ONE, instead(ONE, other))
    assert change["background_error"] > 0.05
    assert abs(change["motion"]) < 0.1


def test_another_tint_has_drifted_and_is_no_error_of_the_background() -> None:
    """From frame 24 on another scene of the same caption, all of it true but that it changed."""
    change = changed(FAR, means(FAR, torch.cat([video(FAR)[:24], video(FAR, seed=5)[24:]])))
    assert change["tint"] > 0.03
    assert change["landscape"] > 0.5
    assert abs(change["background_error"]) < 0.01


def test_a_shuffled_background_is_an_error_of_the_background_and_the_thing_is_still_found() -> None:
    truth = render(Scene.parse(ONE), 3, 1)[1]
    ground = (torch.from_numpy(np.asarray(truth.background)) * 255).round().to(torch.uint8)
    thing = (video(ONE) != ground).any(dim=-1, keepdim=True)
    shown = torch.where(thing, video(ONE), ground.roll(32, dims=0))
    change = changed(ONE, means(ONE, shown))
    assert change["background_error"] > 0.1
    assert abs(change["presence"]) < 0.05
    assert abs(change["colour_error"]) < 0.02
    assert abs(change["motion"]) < 0.1


@pytest.mark.parametrize("prompt", [ONE, FAR])
def test_a_frozen_video_stands_still_and_repeats(prompt: str) -> None:
    frozen = video(prompt)[:1].expand(FRAMES, -1, -1, -1)
    scores, change = means(prompt, frozen), changed(prompt, means(prompt, frozen))
    assert scores["motion"] == 0
    assert scores["repetition"] == pytest.approx(1, abs=1e-3)
    assert change["repetition"] > 0.1
    assert abs(change["background_error"]) < 0.02


def test_a_video_that_replays_its_opening_repeats_and_still_moves() -> None:
    replayed = torch.cat([video(FAR)[:21], video(FAR)[:21].flip(0), video(FAR)[:6]])
    change = changed(FAR, means(FAR, replayed))
    assert means(FAR, replayed)["repetition"] == pytest.approx(1, abs=1e-3)
    assert abs(change["motion"]) < 0.4
    assert means(FAR, replayed)["motion"] > 0.1


@pytest.mark.parametrize("prompt", [ONE, FAR])
def test_a_blurred_video_is_less_sharp_and_otherwise_alike(prompt: str) -> None:
    moved = video(prompt).permute(0, 3, 1, 2).float()
    blurred = functional.avg_pool2d(functional.pad(moved, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    change = changed(prompt, means(prompt, blurred.round().to(torch.uint8).permute(0, 2, 3, 1)))
    assert change["sharpness"] < -0.5
    assert abs(change["background_error"]) < 0.02
    assert abs(change["colour_error"]) < 0.05
    assert abs(change["motion"]) < 0.1


def test_noise_is_sharper_than_the_truth() -> None:
    grain = torch.randn(video(ONE).shape, generator=torch.Generator().manual_seed(0)) * 12
    change = changed(ONE, means(ONE, (video(ONE) + grain).clamp(0, 255).to(torch.uint8)))
    assert change["sharpness"] > 0.5
    assert abs(change["presence"]) < 0.05


def test_windows_may_leave_frames_out() -> None:
    """Motion is not taken across the gap."""
    metric = WorldTruth()
    metric.start(ONE, 8.0)
    metric.update(video(ONE)[:12], 0)
    curves = metric.update(video(ONE)[36:], 36)
    assert curves["motion"][0] == 0
    assert curves["motion"].max() < 3  # positions are known to two pixels
    torch.testing.assert_close(curves["presence"], measured(ONE, video(ONE), FRAMES)["presence"][36:])


def pasted(shown: Tensor, colour: str, shape: str, x: float, y: float) -> Tensor:
    """The same video with another thing in front, which stands still."""
    paint, cover = (torch.from_numpy(part) for part in sprite(colour, shape, np.array([[x, y]], np.float32)))
    changed = shown + cover[..., None] * (paint * 255 - shown)
    return changed.round().to(torch.uint8)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_true_videos_have_as_many_things_as_they_say_and_none_jumps(prompt: str) -> None:
    scores = true_means(prompt)  # what is hidden behind the other is not counted
    assert scores["count"] == pytest.approx(len(Scene.parse(prompt).things), abs=0.25)
    assert scores["count_error"] < 0.25
    assert scores["jump"] == 0


@pytest.mark.parametrize(("colour", "shape"), [("purple", "cone"), ("red", "ball"), ("green", "box")])
def test_a_thing_too_many_is_counted(colour: str, shape: str) -> None:
    """Where the one true thing is not: by the true centres, which the metric is not told."""
    truth = render(Scene.parse(ONE), 3, FRAMES)[1].centres[:, 0]
    x, y = max(((x, y) for x in (14.0, 50.0) for y in (14.0, 50.0)), key=lambda at: abs(truth - at).max(1).min())
    curves = measured(ONE, pasted(video(ONE), colour, shape, x, y))
    clear = torch.from_numpy(abs(truth - [x, y]).max(axis=1) > 21)
    assert clear.sum() > 10
    assert curves["count"][clear].mean() == pytest.approx(2, abs=0.1)
    assert curves["count_error"][clear].mean() == pytest.approx(1, abs=0.1)


def test_an_empty_landscape_has_nothing_and_a_wrong_colour_is_still_one_thing() -> None:
    empty = (torch.from_numpy(np.asarray(render(Scene.parse(ONE), 3, 1)[1].background)) * 255).round().to(torch.uint8)
    assert means(ONE, empty.expand(FRAMES, -1, -1, -1))["count"] == 0
    assert instead(ONE, "a blue ball over snow at day")["count"] == pytest.approx(1, abs=0.05)
    assert instead(ONE, "a red box over snow at day")["count"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("skipped", [5, 60])
def test_a_thing_jumps_when_the_truth_says_that_it_did(skipped: int) -> None:
    """Two pieces of one true video, the second some frames later: a jump where the true centres are far apart."""
    whole, truth = render(Scene.parse(ONE), 3, 200)
    order = [*range(24), *range(24 + skipped, 48 + skipped)]
    curves = measured(ONE, torch.from_numpy(whole[order]))
    apart = np.linalg.norm(truth.centres[24 + skipped, 0] - truth.centres[23, 0])
    assert (apart > 8) == (skipped == 60)
    assert curves["jump"].nonzero().flatten().tolist() == ([24] if skipped == 60 else [])


def test_a_gap_allows_as_much_motion_as_it_lasts() -> None:
    whole = torch.from_numpy(render(Scene.parse(ONE), 3, 120)[0])
    metric = WorldTruth()
    metric.start(ONE, 8.0)
    metric.update(whole[:12], 0)
    assert metric.update(whole[72:84], 72)["jump"].sum() == 0
