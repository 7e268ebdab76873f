"""Batches hold only requests that do not change each other's videos."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollforge.data.requests import Request
from rollforge.data.video_requests import batches


def request(sample: int, at: int | None = None, opening: str | None = None, frames: int = 24) -> Request:
    shots = ((0, "a"), (at, "b")) if at else ()
    return Request("a | b" if at else "a", sample, 0, frames, shots, Path(opening) if opening else None)


def numbers(requests: list[Request], size: int) -> list[list[int]]:
    return [[each.sample for each in group] for group in batches(requests, size)]


def test_plain_prompts_fill_batches_in_order() -> None:
    assert numbers([request(n) for n in range(5)], 2) == [[0, 1], [2, 3], [4]]
    assert batches([], 4) == []


def test_prompts_that_start_at_other_times_are_rolled_apart() -> None:
    requests = [request(0, at=6), request(1), request(2, at=12), request(3, at=6), request(4), request(5, at=6)]
    assert numbers(requests, 2) == [[0, 3], [5], [1, 4], [2]]
    assert numbers(requests, 8) == [[0, 3, 5], [1, 4], [2]]


@pytest.mark.parametrize(
    ("openings", "expected"),
    [
        (["a.png", "b.JPG", "c.webp"], [[0, 1, 2]]),
        (["a.mp4", "a.mp4", "a.mp4"], [[0, 1, 2]]),
        (["a.mp4", "b.mp4", "c.png"], [[0], [1], [2]]),
    ],
)
def test_openings_of_another_length_are_rolled_apart(openings: list[str], expected: list[list[int]]) -> None:
    assert numbers([request(n, opening=path) for n, path in enumerate(openings)], 8) == expected


def test_videos_of_another_length_are_rolled_apart() -> None:
    assert numbers([request(0), request(1, frames=30), request(2)], 8) == [[0, 2], [1]]
