"""Events at known times: the interval and the last window against the truth."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from events_on_video import TRUTH, overlap
from rollforge_inspect import CurveThinker, Look, Trace, inspect
from rollforge_inspect.thinkers.features import features

from rollforge.errors import UserError

Videos = dict[str, Path]
ASKED = {
    "cut": "when is there a cut?",
    "object": "when does the object vanish?",
    "drift": "when does the colour drift?",
}


@pytest.mark.parametrize("kind", ["cut", "object", "drift"])
@pytest.mark.parametrize("named", [True, False], ids=["named", "any"])
def test_the_interval_overlaps_the_truth(
    videos: Videos, kind: str, named: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = inspect(videos[kind], ASKED[kind] if named else "when does something change?")
    truth = TRUTH[kind]
    assert truth is not None
    assert trace.interval is not None
    last, interval = overlap(trace.windows[-1], truth), overlap(trace.interval, truth)
    with capsys.disabled():
        sys.stdout.write(f"\n{kind}: IoU of the last window {last:.2f}, of the interval {interval:.2f} ")
    assert interval > 0.5
    assert last > 0.5


@pytest.mark.parametrize(
    ("kind", "question"),
    [
        ("nothing", "when does something change?"),
        ("cut", ASKED["drift"]),
        ("cut", ASKED["object"]),
        ("object", ASKED["cut"]),
        ("object", ASKED["drift"]),
        ("drift", ASKED["cut"]),
        ("drift", ASKED["object"]),
    ],
)
def test_what_is_not_in_the_video_is_not_found(videos: Videos, kind: str, question: str) -> None:
    trace = inspect(videos[kind], question)
    assert (trace.interval, trace.windows) == (None, [])
    assert "Nothing of the kind was found" in trace.answer


def test_it_is_deterministic(videos: Videos) -> None:
    one, other = (inspect(videos["object"], "what?").as_json() for _ in range(2))
    assert one == other


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_fewer_calls_are_less_sharp(videos: Videos, calls: int) -> None:
    trace: Trace = inspect(videos["cut"], "when?", calls=calls)
    assert len(trace.windows) == calls
    assert trace.interval is not None
    assert overlap(trace.interval, (36.0, 38.0)) > 0.5


def test_a_thinker_inspects_one_video_after_another(videos: Videos) -> None:
    thinker = CurveThinker()
    first = inspect(videos["cut"], "when?", thinker).as_json()
    inspect(videos["drift"], "when?", thinker)
    assert inspect(videos["cut"], "when?", thinker).as_json() == first


def test_a_video_that_is_too_short_is_one_sentence(videos: Videos) -> None:
    with pytest.raises(UserError, match=r"^The video is 3.0 s long, 3 samples at one a second; CurveThinker needs 6"):
        inspect(videos["short"], "when?")


def test_a_tint_is_no_share_of_the_picture() -> None:
    frame = np.full((16, 16, 3), 100, np.uint8)
    other = frame.copy()
    other[4:8, 4:8] = (250, 0, 0)
    seen = features(Look(0, 3, (0.0, 1.0, 2.0), np.stack([frame, frame + 20, other])))
    background = seen.cells[0]
    np.testing.assert_allclose(seen.share(background)[:2], 0, atol=1e-4)
    assert 0.05 < seen.share(background)[2] < 0.5
