"""Likeness of videos, on constructed videos of known answer and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rollforge.comparison import likeness

RANDOM = np.random.default_rng(0)
SCENES = RANDOM.integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
Pictures = NDArray[np.uint8]


def fading(start: Pictures, end: Pictures, seconds: int) -> Pictures:
    """From one picture to another, linearly."""
    share = np.linspace(0, 1, seconds)[:, None, None, None]
    return np.rint(start * (1 - share) + end * share).astype(np.uint8)


def correlation(one: Pictures, other: Pictures) -> float:
    return float(np.corrcoef(one.ravel().astype(float), other.ravel().astype(float))[0, 1])


def test_identity_is_the_likeness_to_the_own_opening_minus_the_mean_over_other_seeds() -> None:
    takes = [fading(SCENES[n], SCENES[(n + 1) % 3], 9) for n in range(3)]
    found = likeness.identity(takes)
    for n, take in enumerate(takes):
        expected = [
            correlation(frame, take[0]) - np.mean([correlation(frame, takes[m][0]) for m in range(3) if m != n])
            for frame in take
        ]
        np.testing.assert_allclose(found[n], expected, atol=1e-12)
        assert found[n][0] > 0.9  # still itself
        assert found[n][-1] < -0.4  # another seed's opening by now
    assert np.isnan(likeness.identity(takes[:1])[0]).all()


def test_prompts_that_grow_alike_come_near_and_are_retrieved_no_more() -> None:
    videos = np.stack([fading(scene, SCENES[5], 21) for scene in SCENES[:5]])
    distance, own = likeness.apart(videos), likeness.retrieved(videos)
    for n, t in ((0, 0), (3, 7), (4, 20)):
        others = [1 - correlation(videos[n, t], videos[m, t]) for m in range(5) if m != n]
        assert distance[n, t] == pytest.approx(np.mean(others))
        likest = max(range(5), key=lambda m: correlation(videos[n, t], videos[m, 0]))
        assert own[n, t] == (likest == n)
    assert distance[:, 0].min() > 0.8
    assert distance[:, -1].max() < 1e-9  # one and the same picture
    assert own[:, :10].all()
    assert own[:, -1].sum() == 1  # all are likest to the same opening
    assert 10 < likeness.half_life(own.mean(axis=0)) <= 20
    steady = np.repeat(videos[:, :1], 9, axis=1)
    assert np.isnan(likeness.half_life(likeness.retrieved(steady).mean(axis=0)))


def test_a_twin_parts_at_the_second_in_which_it_is_half_as_far_as_another_seed() -> None:
    run = np.full((10, 16, 16, 3), 100, np.uint8)
    others = [run + np.uint8(40), run + np.uint8(60)]  # 50 levels away, on average
    twin = run + (5 * np.arange(10, dtype=np.uint8))[:, None, None, None]
    assert likeness.parted(run, twin, others) == 6  # 25 levels at second 5 are half, not more
    assert np.isnan(likeness.parted(run, run, others))
    assert np.isnan(likeness.parted(run, twin, []))
    assert likeness.parted(run[:8], twin, others) == 6


def test_pictures_of_one_colour_have_no_likeness() -> None:
    plain = np.full((2, 3, 16, 16, 3), 7, np.uint8)
    assert np.isnan(likeness.apart(plain)).all()
    assert np.isnan(likeness.identity([*plain])[0]).all()
    assert likeness.at_ends(np.array([np.nan, 1.0, 3.0, np.nan])) == (1.0, 3.0)
    assert likeness.at_ends(np.arange(20.0)) == (2.0, 17.0)
