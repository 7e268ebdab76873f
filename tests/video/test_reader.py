from __future__ import annotations

import importlib.util
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import number, numbered, smooth, write

from rollforge.errors import UserError
from rollforge.video.reader import Backend, VideoInfo, frames, probe, read_clip, stills

COUNT = 70
BACKENDS: list[Backend] = ["pyav", "decord"] if importlib.util.find_spec("decord") else ["pyav"]


def foreign(path: Path, codec: str, options: dict[str, str]) -> Path:
    """A plain, untagged mp4 as other programs write it, with frames out of order."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(25), options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for image in smooth(COUNT):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    return [
        write(folder / "own.mp4", smooth(COUNT)),
        write(folder / "lossless.mp4", smooth(COUNT), crf=0),
        foreign(folder / "reordered.mp4", "libx264", {"bf": "3", "g": "25"}),
        foreign(folder / "vp9.webm", "libvpx-vp9", {"g": "12", "deadline": "realtime", "cpu-used": "8"}),
    ]


def test_probe_counts_what_is_there(videos: list[Path]) -> None:
    for path in videos:
        fps = 16 if path.stem in ("own", "lossless") else 25
        assert probe(path) == VideoInfo(COUNT, fps, 96, 64)
        assert sum(1 for _ in frames(path)) == COUNT


@pytest.mark.skipif("decord" not in BACKENDS, reason="decord has no wheel here")
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_backends_agree_exactly(videos: list[Path], data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(videos))
    start = data.draw(st.integers(0, COUNT - 1))
    stride = data.draw(st.integers(1, 9))
    count = data.draw(st.integers(1, (COUNT - 1 - start) // stride + 1))
    clips = [read_clip(path, start, count, stride, backend) for backend in ("decord", "pyav")]
    assert clips[0].shape == (count, 64, 96, 3)
    assert np.array_equal(*clips)


@pytest.mark.skipif("decord" not in BACKENDS, reason="decord has no wheel here")
def test_decord_gets_no_codec_in_which_it_is_not_exact(tmp_path: Path) -> None:
    """In this very file decord comes back two frames late."""
    path = foreign(tmp_path / "a.mp4", "mpeg4", {"bf": "2", "g": "25"})
    assert np.array_equal(read_clip(path, 27, 6), read_clip(path, 0, COUNT, backend="pyav")[27:33])
    with pytest.raises(UserError, match="choose the backend 'pyav'"):
        read_clip(path, 27, 6, backend="decord")


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_clips_are_exact_to_the_frame(tmp_path: Path, backend: Backend) -> None:
    path = write(tmp_path / "a.mp4", numbered(300, 32), crf=0)
    for start, count, stride in [(0, 300, 1), (0, 1, 1), (299, 1, 1), (130, 4, 40), (11, 3, 1)]:
        clip = read_clip(path, start, count, stride, backend)
        assert [number(image) for image in clip] == list(range(start, start + count * stride, stride))
    for picks in ([], [5, 6, 20], [0, 150, 299]):  # near each other, and far apart
        assert [number(image) for image in stills(path, picks, backend)] == picks


def test_a_rewritten_file_is_read_anew(tmp_path: Path) -> None:
    assert probe(write(tmp_path / "a.mp4", numbered(5))).frames == 5
    assert probe(write(tmp_path / "a.mp4", numbered(9))).frames == 9


def test_a_file_without_times_is_read_from_the_start(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.avi", "mpeg4", {"g": "25", "bf": "0"})
    assert probe(path).frames == COUNT
    everything = read_clip(path, 0, COUNT, 1, "pyav")
    assert np.array_equal(read_clip(path, 30, 3, 5, "pyav"), everything[30:45:5])


def test_a_header_that_promises_too_much(tmp_path: Path) -> None:
    """The last third is missing, the header does not know: count, do not hang, do not invent frames."""
    path = foreign(tmp_path / "a.mp4", "libx264", {"movflags": "faststart"})
    with av.open(str(path), options={}) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    cut = max(packet.pos + packet.size for packet in packets[:45])
    front = tmp_path / "front.mp4"  # header first, so that the cut takes frames only
    with av.open(str(path)) as source, av.open(str(front), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    whole = front.read_bytes()
    front.write_bytes(whole[: int(cut + (len(whole) - path.stat().st_size))])
    there = probe(front).frames
    assert 0 < there < COUNT
    assert read_clip(front, 0, there).shape[0] == there
    with pytest.raises(UserError, match=f"has {there} frames"):
        read_clip(front, there, 1)
    if "decord" in BACKENDS:
        with pytest.raises(UserError, match="choose the backend 'pyav'"):
            read_clip(front, 0, 1, backend="decord")


def test_no_decord(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", numbered(5))
    monkeypatch.setitem(sys.modules, "decord", None)
    assert len(read_clip(path, 1, 3)) == 3
    with pytest.raises(UserError, match="pip install decord"):
        read_clip(path, 1, 3, backend="decord")


def test_bad_files_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video " * 50)
    (tmp_path / "folder.mp4").mkdir()
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 80), np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    whole = write(tmp_path / "whole.mp4", smooth(30)).read_bytes()
    (tmp_path / "head.mp4").write_bytes(whole[:700])
    for name, words in [
        ("missing.mp4", "cannot be read"),
        ("empty.mp4", "is empty"),
        ("text.mp4", "is not a video"),
        ("folder.mp4", "is a folder, not a regular file"),
        ("sound.wav", "holds no video"),
        ("head.mp4", "head.mp4"),
    ]:
        for use in (probe, lambda path: read_clip(path, 0, 1), lambda path: list(frames(path))):
            with pytest.raises(UserError, match=words):
                use(tmp_path / name)


@pytest.mark.parametrize("clip", [(-1, 2, 1), (0, 0, 1), (0, 2, 0), (4, 2, 1), (0, 3, 3)])
def test_a_clip_outside_the_video(tmp_path: Path, clip: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match="has 5 frames"):
        read_clip(write(tmp_path / "a.mp4", numbered(5)), *clip)
