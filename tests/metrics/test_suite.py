"""The suite as a whole: the same as its parts, cheap, and flat in memory."""

from __future__ import annotations

import resource
import time
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from known_videos import an_hour, loop, measured, noisy
from torch import Tensor

from rollforge.metrics.base import Blocks
from rollforge.metrics.colour import ColourHistogram, Exposure
from rollforge.metrics.fixed_camera import FixedCamera
from rollforge.metrics.flicker import Flicker, Stagnation
from rollforge.metrics.motion import Motion
from rollforge.metrics.repetition import Repetition
from rollforge.metrics.seams import Seams
from rollforge.metrics.sharpness import Sharpness
from rollforge.metrics.suite import DriftSuite

PARTS = (Flicker, Exposure, ColourHistogram, Sharpness, Motion, FixedCamera, Stagnation, Repetition, Seams)
POCKET = Blocks(3, 3)


def test_the_suite_measures_what_its_parts_do() -> None:
    video = noisy(loop(40, 13), 4)
    curves, figures = measured(DriftSuite(), video, blocks=POCKET)
    alone = [measured(part(), video, blocks=POCKET) for part in PARTS]
    assert curves.keys() == {name for part, _ in alone for name in part}
    assert figures.keys() == {name for _, part in alone for name in part}
    for part, found in alone:
        for name, curve in part.items():
            np.testing.assert_array_equal(curves[name], curve)
        assert {name: figures[name] for name in found} == pytest.approx(found, rel=0, nan_ok=True)


def test_frames_that_are_no_plain_block_of_memory_are_measured_alike() -> None:
    video = torch.from_numpy(noisy(loop(12, 5), 4))
    twisted = video.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    one, two = DriftSuite(), DriftSuite()
    for metric in (one, two):
        metric.start("a video", 8.0)
    expected, found = one.update(video, 0), two.update(twisted, 0)
    for name, curve in expected.items():
        assert torch.equal(found[name].nan_to_num(-9), curve.nan_to_num(-9))


def run(suite: DriftSuite, video: Iterator[tuple[Tensor, int]], frames: int) -> Iterator[int]:
    """Peak of traced memory over each quarter of a video, in bytes."""
    quarter = 1
    for block, start in video:
        suite.update(block, start)
        if start + len(block) >= frames * quarter // 4:
            yield tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            quarter += 1


def test_memory_is_flat() -> None:
    """Python and numpy are traced; what torch holds is the state, of a size that we can count."""
    suite = DriftSuite(window=64)
    suite.start("a video", 8.0, POCKET)
    tracemalloc.start()
    peaks = list(run(suite, an_hour(1000, 16, 16, 12), 1000))
    tracemalloc.stop()
    assert len(peaks) == 4
    assert peaks[3] < peaks[1] + 50_000
    assert held(suite.state_dict()) < 2_000_000


def held(state: object) -> int:
    if isinstance(state, Tensor):
        return state.nbytes
    if isinstance(state, dict):
        return sum(held(value) for value in state.values())
    return 8 * (1 + len(state) if isinstance(state, (list, tuple)) else 1)


def test_the_suite_costs_less_than_an_eighth_of_what_pocket_does() -> None:
    """Pocket makes a block of 3 frames in about 60 ms on one core; processor time, since others use the machine."""
    video = torch.from_numpy(noisy(loop(30, 13), 4)).repeat(8, 1, 1, 1)
    taken = []
    for _ in range(3):  # the shortest: caches and clocks are shared with what else runs
        suite = DriftSuite()
        suite.start("a video", 8.0, POCKET)
        began = time.process_time()
        for start in range(0, len(video), 3):
            suite.update(video[start : start + 3], start)
        taken.append(time.process_time() - began)
    assert min(taken) / len(video) < 0.0025


def grown(frames: int, size: tuple[int, int], warm: int) -> tuple[DriftSuite, float]:
    """A suite that has seen so many frames, and by how many MB the process has grown since frame ``warm``."""
    suite = DriftSuite()
    suite.start("a video", 16.0, Blocks(9, 12))
    peak = 0
    for block, start in an_hour(frames, *size, 12):
        suite.update(block, start)
        if start == warm:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return suite, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024


@pytest.mark.slow
def test_an_hour_is_scored_in_flat_memory() -> None:
    """At 16 frames per second the process grows by less than 30 MB after the first minute.

    What would be kept of every frame shows in an hour of small ones, and what is as large as a frame in two minutes of
    480 x 832. Optical flow makes an hour at that size take a quarter of an hour.
    """
    suite, more = grown(57_600, (64, 64), warm=960)
    assert suite.finish()["loop_seconds"] == 2.0  # the picture goes round in 32 frames
    assert more < 30
    _, more = grown(1_920, (480, 832), warm=960)
    assert more < 30
