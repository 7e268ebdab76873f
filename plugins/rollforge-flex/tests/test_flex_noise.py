"""Antiphase and SAN noise: their numbers, their statistics, and that every block has an address."""

from __future__ import annotations

import math

import pytest
import torch
from rollforge_flex import AntiphaseNoise, SANNoise
from rollforge_flex.noise import terms
from torch import Tensor

from rollforge.errors import UserError
from rollforge.noise import IndependentNoise, NoisePrior, normal
from rollforge.testing import check_noise

SHAPE = (2, 3, 4)
PRIORS = [AntiphaseNoise(), AntiphaseNoise(scope="block"), AntiphaseNoise(0.9), SANNoise()]
named = pytest.mark.parametrize("prior", PRIORS, ids=["video", "block", "slow", "san"])


def drawn(prior: NoisePrior, frames: range, shape: tuple[int, int, int] = SHAPE, block: int = 3) -> Tensor:
    """A run, block by block."""
    blocks = (range(start, min(start + block, frames.stop)) for start in range(frames.start, frames.stop, block))
    return torch.cat([prior.draw(5, 1, each, 0, shape) for each in blocks])


def recursion(rho: float, frames: int, level: int = 0, restart: int = 0) -> Tensor:
    """The whole recursion in float64, never truncated."""
    made: list[Tensor] = []
    for frame in range(frames):
        xi = normal(5, 1, frame, level, SHAPE).double()
        first = frame == 0 or (restart and frame % restart == 0)
        made.append(xi if first else rho * made[-1] + math.sqrt(1 - rho**2) * xi)
    return torch.stack(made)


def correlation(noise: Tensor, lag: int) -> float:
    pairs = torch.stack([noise[:-lag].flatten(), noise[lag:].flatten()])
    return float(torch.corrcoef(pairs)[0, 1])


def test_antiphase_noise_is_the_recursion_over_all_frames_or_over_each_block() -> None:
    assert terms(-0.7) == 48
    torch.testing.assert_close(drawn(AntiphaseNoise(), range(120)).double(), recursion(-0.7, 120), rtol=0, atol=1e-6)
    ours = drawn(AntiphaseNoise(-0.4, "block"), range(30))
    torch.testing.assert_close(ours.double(), recursion(-0.4, 30, restart=3), rtol=0, atol=1e-6)


def test_san_noise_adds_a_slow_and_an_alternating_recursion() -> None:
    slow, alternating = recursion(0.9, 180), recursion(-0.9, 180, level=-1)
    ours = drawn(SANNoise(), range(180), block=20).double()
    torch.testing.assert_close(ours, math.sqrt(0.5) * (slow + alternating), rtol=0, atol=1e-6)
    turned = drawn(SANNoise(angle=0.3), range(20)).double()
    expected = math.cos(0.3) * slow[:20] + math.sin(0.3) * alternating[:20]
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-6)


@named
def test_a_block_drawn_alone_equals_the_same_block_of_a_run(prior: NoisePrior) -> None:
    run = drawn(prior, range(90))
    for start in (87, 0, 48, 3):
        frames = range(start, start + 3)
        assert torch.equal(prior.draw(5, 1, frames, 0, SHAPE), run[start : start + 3])
        batch = prior.batch(5, [7, 1], frames, 0, SHAPE)
        assert torch.equal(batch[1], run[start : start + 3])
        assert not torch.equal(batch[0], batch[1])


@pytest.mark.parametrize("prior", [AntiphaseNoise(), SANNoise()])
def test_noise_over_the_video_does_not_depend_on_the_size_of_blocks(prior: NoisePrior) -> None:
    assert torch.equal(drawn(prior, range(24), block=1), drawn(prior, range(24), block=8))


@pytest.mark.parametrize("scope", ["video", "block"])
def test_rho_0_is_independent_noise_bit_for_bit(scope: str) -> None:
    prior = AntiphaseNoise(0.0, scope)  # type: ignore[arg-type]
    for frames in (range(3), range(57, 60)):
        assert torch.equal(prior.draw(5, 1, frames, 0, SHAPE), IndependentNoise().draw(5, 1, frames, 0, SHAPE))


@named
def test_noise_between_denoising_steps_is_independent(prior: NoisePrior) -> None:
    for level in (1, 3):
        frames = range(30, 33)
        assert torch.equal(prior.draw(5, 1, frames, level, SHAPE), IndependentNoise().draw(5, 1, frames, level, SHAPE))


@pytest.mark.parametrize(
    ("prior", "expected"),
    [
        (AntiphaseNoise(), {1: -0.7, 2: 0.49, 3: -0.343}),
        (AntiphaseNoise(0.5), {1: 0.5, 2: 0.25}),
        (SANNoise(), {1: 0.0, 2: 0.81, 3: 0.0}),  # the two processes cancel at odd lags
    ],
    ids=["antiphase", "positive", "san"],
)
def test_statistics_over_the_video(prior: NoisePrior, expected: dict[int, float]) -> None:
    noise = drawn(prior, range(300, 400), (4, 16, 16), block=20)
    assert noise.var() == pytest.approx(1, abs=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.02)
    variances = noise.flatten(1).var(dim=1)
    assert variances.min() > 0.75
    assert variances.max() < 1.25
    for lag, value in expected.items():
        assert correlation(noise, lag) == pytest.approx(value, abs=0.02)


def test_scope_block_correlates_frames_of_a_block_alone() -> None:
    blocks = drawn(AntiphaseNoise(scope="block"), range(60), (4, 16, 16)).unflatten(0, (-1, 3))
    inside = torch.stack([blocks[:, :-1].flatten(), blocks[:, 1:].flatten()])
    across = torch.stack([blocks[:-1, -1].flatten(), blocks[1:, 0].flatten()])
    assert torch.corrcoef(inside)[0, 1] == pytest.approx(-0.7, abs=0.02)
    assert torch.corrcoef(across)[0, 1] == pytest.approx(0, abs=0.03)


@named
def test_it_passes_the_kit(prior: NoisePrior) -> None:
    check_noise(prior)


def test_arguments_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UserError, match=r"AntiphaseNoise.rho must be a number from -0.99 to 0.99, not -1."):
        AntiphaseNoise(rho=-1)
    with pytest.raises(UserError, match=r"AntiphaseNoise.scope must be one of 'video', 'block', not 'clip'."):
        AntiphaseNoise(scope="clip")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"SANNoise.rho must be a number from -0.99 to 0.99, not 2."):
        SANNoise(rho=2)
