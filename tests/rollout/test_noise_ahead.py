"""Noise that is drawn while the device works is the noise that would be drawn when it is asked for."""

from __future__ import annotations

from threading import current_thread
from typing import Any

import pytest
import torch
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.backbones.wan.network import Wan
from rollforge.errors import UserError
from rollforge.noise import IndependentNoise
from rollforge.policies import Window
from rollforge.rollout import Rollout, iterator
from rollforge.samplers import FewStep

FEW = FewStep([1000, 500], context_noise=50.0)
TEXT = Condition("text", torch.zeros(2, 2, 4))


@pytest.fixture(scope="module")
def model() -> Wan:
    torch.manual_seed(0)
    return Wan(2, 4, 2, 24, 2, 2, 32, 16, 4, 2, block=2, window=6, horizon=6).eval()


class Noted(IndependentNoise):
    """Notes what is drawn, and in which thread. Has none from a frame on."""

    def __init__(self, end: int = 1000) -> None:
        self.end = end
        self.drawn: list[tuple[int, int, str]] = []

    def batch(self, seed: int, samples: Any, frames: range, level: int, shape: Any) -> Tensor:
        self.drawn.append((frames.start, level, current_thread().name))
        if frames.stop > self.end:
            raise UserError("There is no noise for these frames.")
        return super().batch(seed, samples, frames, level, shape)


def latents(run: Any) -> Tensor:
    return torch.cat([block.latents for block in run], dim=1)


def test_noise_that_is_drawn_ahead_is_drawn_once_and_changes_nothing(
    model: Wan, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = latents(Rollout(model, Window(2), FEW)(TEXT, 12))
    monkeypatch.setattr(iterator, "AHEAD", ("cpu",))
    noise = Noted()
    run = Rollout(model, Window(2), FEW, noise)(TEXT, 12)
    first = next(run).latents
    drawn = {(frame, level) for frame, level, _ in noise.drawn}
    assert (2, 0) in drawn, "the noise of the second block is not drawn with the first"
    assert torch.equal(torch.cat([first, latents(run)], 1), expected)
    assert len(noise.drawn) == len({(frame, level) for frame, level, _ in noise.drawn})
    assert all(thread.startswith("rollforge-noise") for *_, thread in noise.drawn)


def test_noise_that_is_not_there_is_missed_at_the_block_that_needs_it(
    model: Wan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iterator, "AHEAD", ("cpu",))
    run = Rollout(model, Window(2), FEW, Noted(end=4))(TEXT, 8)
    assert [next(run).index, next(run).index] == [0, 1]
    with pytest.raises(UserError, match="no noise for these frames"):
        next(run)
