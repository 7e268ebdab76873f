"""True rates and times of pictures, from what a file says of them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from rollforge.video.timing import Timing

MS = Fraction(1, 1000)


@pytest.mark.parametrize(
    ("times", "nominal", "fps", "seconds"),
    [
        pytest.param([0, 42, 83, 125], 24, 24, [0, 1 / 24, 2 / 24, 3 / 24], id="rounded to milliseconds"),
        pytest.param([7000, 7125, 7250], 8, 8, [0, 0.125, 0.25], id="a late start"),
        pytest.param([0, 125, 250], 1000, 8, [0, 0.125, 0.25], id="a header that guesses"),
        pytest.param([0, 125, 250], None, 8, [0, 0.125, 0.25], id="no header"),
        pytest.param([0, 100, 400], 8, 5, [0, 0.1, 0.4], id="uneven"),
        pytest.param([0, 100, 100, 300], 1000, 10, [0, 0.1, 0.1, 0.3], id="two at one time"),
        pytest.param([0, 100, 250], 8, 8, [0, 0.1, 0.25], id="uneven at the header's rate"),
        pytest.param([0, None, 250], 10, 10, [0, 0.1, 0.2], id="a time is missing"),
        pytest.param([0, 500, 250], 10, 10, [0, 0.1, 0.2], id="time goes back"),
        pytest.param([5, 5], None, 25, [0, 0.04], id="no time passes, no header"),
        pytest.param([5], 12, 12, [0], id="one picture"),
        pytest.param([0, 10**7], Fraction(1, 10**4), 1e-4, [0, 1e4], id="one picture in hours"),
    ],
)
def test_the_times_and_the_rate(
    times: list[int | None], nominal: float | None, fps: float, seconds: list[float]
) -> None:
    found = Timing.of(times, MS, None if nominal is None else Fraction(nominal))
    assert found.fps == pytest.approx(fps)
    np.testing.assert_allclose(found.seconds, seconds)


def test_a_moment_shows_the_last_picture_that_has_come() -> None:
    uneven = Timing.of([0, 100, 400], MS, None)
    assert uneven.shown_at(np.array([-1, 0, 0.099, 0.1, 0.399, 0.4, 9])).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert uneven.even(np.arange(3)).tolist() == [1, 1, 2]
