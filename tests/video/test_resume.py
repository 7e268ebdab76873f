"""A video that was broken off and continued shows the same pixels as one that was not."""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
import tempfile
from copy import deepcopy
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scenes import smooth

from rollforge.errors import UserError
from rollforge.state import odd
from rollforge.video.encoder import GROUP
from rollforge.video.reader import frames, probe, read_clip
from rollforge.video.writer import VideoWriter

SIZES = [(16, 16), (23, 17), (40, 30)]
Frames = NDArray[np.uint8]


def pan(count: int, width: int, height: int) -> Frames:
    """A soft texture that moves slowly."""
    texture = np.random.default_rng(1).integers(0, 256, (height, width + count, 3)).astype(float)
    for axis in (0, 1, 0, 1):
        texture = (texture + np.roll(texture, 1, axis)) / 2
    return np.stack([texture[:, n // 2 : n // 2 + width] for n in range(count)]).astype(np.uint8)


def cuts(count: int, width: int, height: int) -> Frames:
    """Hard cuts, every seven frames, between a pan, noise and a plain colour."""
    kinds = [pan(count, width, height), noise(count, width, height), np.full((count, height, width, 3), 90, np.uint8)]
    return np.stack([kinds[n // 7 % 3][n] for n in range(count)])


def noise(count: int, width: int, height: int) -> Frames:
    return np.random.default_rng(2).integers(0, 256, (count, height, width, 3), np.uint8)


def digest(path: Path) -> str:
    """Of all decoded pixels, as the decoder gives them. The frames must be whole and one tick apart."""
    pixels = sha256()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate
        assert rate is not None
        for number, picture in enumerate(container.decode(stream)):
            assert picture.pts is not None
            assert picture.time_base is not None
            assert picture.pts * picture.time_base * rate == number
            assert picture.key_frame == (number % GROUP == 0)
            pixels.update(picture.to_ndarray().tobytes())
        assert stream.duration is not None
        assert stream.time_base is not None
        assert stream.duration * stream.time_base * rate == number + 1
    return pixels.hexdigest()


def fragments(path: Path) -> list[int]:
    """Their sequence numbers."""
    data = path.read_bytes()
    at, found = 0, []
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        assert kind in ((b"moof", b"mdat") if at > 27 and found else (b"ftyp", b"moov", b"moof"))
        if kind == b"moof":
            found.append(struct.unpack(">I", data[at + 20 : at + 24])[0])
        at += size
    assert at == len(data)
    return found


def finish(path: Path, video: Frames, *how: Any, state: Any = None) -> str:
    """Writes what is missing, and says what the finished video shows."""
    with VideoWriter(path, (video.shape[2], video.shape[1]), *how, state=state) as writer:
        writer.write(video[writer.written :])
    return digest(path)


def broken_off(path: Path, video: Frames, snapshot: int, end: int, *how: Any, state: Any = None) -> Any:
    """The state at one frame of a writer that ends at a later one without a word, as if killed."""
    writer = VideoWriter(path, (video.shape[2], video.shape[1]), *how, state=state)
    writer.write(video[writer.written : snapshot])
    state = deepcopy(writer.state_dict())
    writer.write(video[snapshot:end])
    left = writer.partial.read_bytes()
    writer.abandon()
    writer.partial.write_bytes(left)
    assert odd(state) is None
    assert state["frames"] == snapshot == state["before"] + len(state["tail"])
    return state


@pytest.mark.parametrize("crf", [10, 30, 0])
@pytest.mark.parametrize("scene", [pan, cuts, noise])
@pytest.mark.parametrize(("size", "scale"), [((16, 18), 1), ((37, 23), 1), ((37, 23), 3), ((16, 10), 6)])
def test_a_group_does_not_depend_on_what_came_before(
    tmp_path: Path, scene: Any, size: tuple[int, int], scale: int, crf: int
) -> None:
    video = scene(3 * GROUP + 5, *size)
    whole = finish(tmp_path / "whole.mp4", video, 16, scale, crf)
    for start in (GROUP, 3 * GROUP):
        state = broken_off(tmp_path / "a.mp4", video, start + 1, start + 1, 16, scale, crf)
        assert (state["before"], len(state["tail"])) == (start, 1)
        assert finish(tmp_path / "a.mp4", video, 16, scale, crf, state=state) == whole


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_break_and_any_state_give_the_same_pixels(data: st.DataObject) -> None:
    """Broken off again and again, at any frame, with a state of any frame before, with anything after the offset."""
    draw = data.draw
    size, crf, scale = draw(st.sampled_from(SIZES)), draw(st.sampled_from([10, 0])), draw(st.sampled_from([1, 2]))
    fps = draw(st.sampled_from([16, 23.976, Fraction(30000, 1001), 0.5]))
    video = draw(st.sampled_from([pan, cuts, noise]))(draw(st.integers(1, 50)), *size)
    with tempfile.TemporaryDirectory() as folder:
        whole = finish(Path(folder) / "whole.mp4", video, fps, scale, crf)
        path, state, start = Path(folder) / "a.mp4", None, 0
        for _ in range(draw(st.integers(1, 3))):
            start = draw(st.integers(start, len(video)))
            end = draw(st.integers(start, len(video)))
            state = broken_off(path, video, start, end, fps, scale, crf, state=state)
            partial = path.with_suffix(".partial.mp4")
            left = partial.read_bytes()
            lost = draw(st.integers(0, len(left) - state["offset"]))
            more = draw(st.sampled_from([b"", b"garbage", left[state["offset"] :]]))
            partial.write_bytes(left[: len(left) - lost] + more)
        assert finish(path, video, fps, scale, crf, state=state) == whole
        assert fragments(path) == list(range(1, -(-len(video) // GROUP) + 1))


def test_a_state_changes_nothing_and_the_caller_may_reuse_the_frames(tmp_path: Path) -> None:
    video = pan(40, 24, 18)
    finish(tmp_path / "whole.mp4", video, 16)
    block = np.empty_like(video[:5])
    with VideoWriter(tmp_path / "a.mp4", (24, 18), 16) as writer:
        for start in range(0, 40, 5):
            block[:] = video[start : start + 5]
            writer.write(block)
            state = writer.state_dict()
            block[:] = 0
            assert torch.equal(state["tail"], torch.from_numpy(video[state["before"] : start + 5]))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_both_readers_read_a_continued_video(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    video, path = smooth(50), tmp_path / "a.mp4"
    state = broken_off(path, video, 31, 40, 16, 1, 0)
    finish(path, video, 16, 1, 0, state=state)
    assert probe(path).frames == 50
    for start in (0, 20, 24, 45):
        clip = read_clip(path, start, 5, backend="decord")
        assert np.array_equal(clip, read_clip(path, start, 5, backend="pyav"))
        assert np.array_equal(clip, video[start : start + 5])


@pytest.mark.parametrize("where", [0, 500, -1])
def test_a_damaged_beginning_is_refused_and_left_alone(tmp_path: Path, where: int) -> None:
    video, path, partial = pan(40, 24, 18), tmp_path / "a.mp4", tmp_path / "a.partial.mp4"
    state = broken_off(path, video, 30, 40, 16)
    data = bytearray(partial.read_bytes())
    data[where % state["offset"]] ^= 1
    partial.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.partial\.mp4 cannot be continued: its first \d+ bytes have changed"):
        VideoWriter(path, (24, 18), 16, state=state)
    assert partial.read_bytes() == data


def test_a_shorter_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    video, path, partial = pan(40, 24, 18), tmp_path / "a.mp4", tmp_path / "a.partial.mp4"
    state = broken_off(path, video, 30, 40, 16)
    data = partial.read_bytes()[: state["offset"] - 1]
    partial.write_bytes(data)
    with pytest.raises(UserError, match=rf"has only {len(data)} of the {state['offset']} bytes"):
        VideoWriter(path, (24, 18), 16, state=state)
    assert partial.read_bytes() == data
    partial.unlink()
    with pytest.raises(UserError, match="cannot be continued: it is gone; take an older snapshot"):
        VideoWriter(path, (24, 18), 16, state=state)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("size", "how", "words"),
    [
        ((18, 24), (16,), r"24x18 pixels, not \(18, 24\)"),
        ((24, 18), (8,), "other settings"),
        ((24, 18), (16, 2), "other settings"),
        ((24, 18), (16, 1, 12), "is of crf 10, not 12"),
        ((24, 18), (16, 1, 0), "is of crf 10, not 0"),
    ],
)
def test_other_settings_are_refused_and_the_file_left_alone(
    tmp_path: Path, size: tuple[int, int], how: tuple[int, ...], words: str
) -> None:
    video, path, partial = pan(40, 24, 18), tmp_path / "a.mp4", tmp_path / "a.partial.mp4"
    state = broken_off(path, video, 30, 40, 16)
    data = partial.read_bytes()
    with pytest.raises(UserError, match=words):
        VideoWriter(path, size, *how, state=state)
    assert partial.read_bytes() == data


def test_up_to_one_group_no_file_is_needed(tmp_path: Path) -> None:
    video, path = pan(40, 24, 18), tmp_path / "a.mp4"
    whole = finish(tmp_path / "whole.mp4", video, 16)
    for snapshot in (0, 1, GROUP):
        state = broken_off(path, video, snapshot, 40, 16)
        (tmp_path / "a.partial.mp4").unlink()
        assert finish(path, video, 16, state=state) == whole


def run(body: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Lines of Python in a process of their own."""
    head = "import sys; sys.path.insert(0, sys.argv[1]); from test_resume import *\n"
    command = [sys.executable, "-c", head + body, str(Path(__file__).parent), *arguments]
    return subprocess.Popen(command, stdout=-1, stderr=-1, cwd=Path(__file__).parents[2])


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_process_killed_while_it_writes_leaves_a_playable_video_that_goes_on(tmp_path: Path) -> None:
    body = """
video = cuts(120, 96, 64)
writer = VideoWriter(sys.argv[2], (96, 64), 16)
writer.write(video[:100])
torch.save(writer.state_dict(), sys.argv[3])
print("there", flush=True)
for number in range(20_000):
    writer.write(video[number % 120][None])
print("too late", flush=True)
"""
    path, saved = tmp_path / "a.mp4", tmp_path / "state.pt"
    with run(body, str(path), str(saved)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        process.send_signal(signal.SIGKILL)
        assert not process.stdout.read()
    partial = tmp_path / "a.partial.mp4"
    assert sum(1 for _ in frames(partial)) == probe(partial).frames >= 100 - GROUP
    video = cuts(120, 96, 64)
    whole = finish(tmp_path / "whole.mp4", video, 16)
    assert finish(path, video, 16, state=torch.load(saved)) == whole


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a POSIX thing")
def test_a_disk_that_is_full_when_the_video_goes_on_spoils_nothing(tmp_path: Path) -> None:
    video, path = noise(40, 96, 64), tmp_path / "a.mp4"
    whole = finish(tmp_path / "whole.mp4", video, 16)
    state = broken_off(path, video, 30, 40, 16)
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (state["offset"] + 500, before[1]))
    try:
        with pytest.raises(UserError, match=r"Writing .* failed after \d+ frames \(File too large\)"):
            finish(path, video, 16, state=state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not path.exists()
    assert probe(tmp_path / "a.partial.mp4").frames >= 24
    assert finish(path, video, 16, state=state) == whole


@pytest.mark.parametrize("count", [0, 30])
def test_a_closed_writer_has_no_state(tmp_path: Path, count: int) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", (24, 18), 16)
    writer.write(pan(count or 1, 24, 18)[:count])
    writer.abandon()
    with pytest.raises(ValueError, match=r"a\.mp4 is closed"):
        writer.state_dict()
