from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from scenes import smooth, write

from rollforge.errors import UserError
from rollforge.video.encoder import GROUP
from rollforge.video.reader import frames, probe
from rollforge.video.writer import VideoWriter


def read(path: Path) -> np.ndarray:
    return np.stack(list(frames(path)))


def test_colours_come_back(tmp_path: Path) -> None:
    video = smooth()
    error = read(write(tmp_path / "a.mp4", video, 16, 1, 10)).astype(float) - video
    assert np.abs(error).mean() < 0.6
    assert np.abs(error.mean((0, 1, 2))).max() < 0.3, "a shifted channel is a wrong matrix or range"


def test_lossless_is_lossless(tmp_path: Path) -> None:
    video = np.random.default_rng(0).integers(0, 256, (5, 15, 17, 3), np.uint8)
    assert np.array_equal(read(write(tmp_path / "a.mp4", video, 16, 1, 0)), video)


@pytest.mark.parametrize("fps", [16, 23.976, Fraction(30000, 1001), 0.5])
def test_tags_and_times(tmp_path: Path, fps: float) -> None:
    with av.open(str(write(tmp_path / "a.mp4", smooth(30), fps))) as container:
        stream = container.streams.video[0]
        pictures = list(container.decode(stream))
    exact = Fraction(fps).limit_denominator(1001)
    assert stream.average_rate == exact
    assert [picture.pts * picture.time_base * exact for picture in pictures] == list(range(30))
    tags = [stream.codec_context, pictures[0]]
    assert all((tag.colorspace, tag.color_range, tag.color_trc, tag.color_primaries) == (1, 1, 1, 1) for tag in tags)
    assert stream.pix_fmt == "yuv420p"


def test_scale_keeps_pixels_square_and_odd_sizes_grow_by_an_edge(tmp_path: Path) -> None:
    video = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), np.uint8)
    lossless = read(write(tmp_path / "a.mp4", video, 16, 3, 0))
    assert np.array_equal(lossless, video.repeat(3, 1).repeat(3, 2))
    padded = read(write(tmp_path / "b.mp4", smooth(3, 7, 5)))
    assert padded.shape == (3, 6, 8, 3)
    assert np.abs(padded[:, 5].astype(int) - padded[:, 4]).mean() < 4


def test_the_final_name_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with VideoWriter(path, (96, 64), 16) as writer:
        writer.write(smooth(20))
        assert not path.exists()
        assert writer.partial.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]
    assert writer.written == probe(path).frames == 20


@pytest.mark.parametrize("reason", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_all_frames_playable_and_no_final_name(tmp_path: Path, reason: type[BaseException]) -> None:
    with pytest.raises(reason), VideoWriter(tmp_path / "a.mp4", (96, 64), 16) as writer:  # noqa: PT012
        writer.write(smooth(29))
        raise reason
    assert [file.name for file in tmp_path.iterdir()] == ["a.partial.mp4"]
    assert len(read(tmp_path / "a.partial.mp4")) == 29


def test_no_frames_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no frame"), VideoWriter(tmp_path / "a.mp4", (8, 8), 16):
        pass
    assert not list(tmp_path.iterdir())


def python(folder: Path, body: str) -> subprocess.Popen[bytes]:
    """Runs lines that may write ``folder/a.mp4``, in a process of their own."""
    head = "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[1]); from scenes import *\n"
    command = [sys.executable, "-c", head + body, str(Path(__file__).parent), str(folder / "a.mp4")]
    return subprocess.Popen(command, stdout=-1, stderr=-1, cwd=Path(__file__).parents[2])


def test_a_killed_writer_loses_one_group_at_most(tmp_path: Path) -> None:
    body = (
        "writer = VideoWriter(sys.argv[2], (96, 64), 16); writer.write(smooth(100)); print('there', flush=True)\n"
        "time.sleep(60)"
    )
    with python(tmp_path, body) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        process.send_signal(signal.SIGKILL)
    assert 100 - GROUP <= probe(tmp_path / "a.partial.mp4").frames <= 100
    assert len(read(tmp_path / "a.partial.mp4")) == probe(tmp_path / "a.partial.mp4").frames
    assert not (tmp_path / "a.mp4").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps open files")
@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_taken_away_is_missed_at_the_next_write(tmp_path: Path, replaced: bool) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    writer = VideoWriter(folder / "a.mp4", (96, 64), 16)
    writer.write(smooth(20))
    shutil.rmtree(folder)
    if replaced:
        folder.mkdir()
        writer.partial.write_text("another's")
    for act in (lambda: writer.write(smooth(1)), writer.state_dict, writer.close):
        with pytest.raises(UserError, match=r"out/a\.partial\.mp4 was removed or replaced"):
            act()
    assert [file.read_text() for file in tmp_path.rglob("*.mp4")] == ["another's"] * replaced


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps open files")
def test_a_file_that_is_replaced_before_the_end_gets_no_final_name(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", (96, 64), 16)
    writer.write(smooth(2))
    writer.partial.unlink()
    writer.partial.write_text("another's")
    with pytest.raises(UserError, match="removed or replaced"):
        writer.close()
    assert [file.name for file in tmp_path.iterdir()] == ["a.partial.mp4"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
@pytest.mark.parametrize("count", [2, 60], ids=["at the end", "on the way"])
def test_a_full_disk_is_final(tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.partial.mp4").symlink_to("/dev/full")
    monkeypatch.setattr("rollforge.video.file.open_new", lambda path, buffering: path.open("wb", buffering))
    writer = VideoWriter(tmp_path / "a.mp4", (96, 64), 16)
    with pytest.raises(UserError, match=r"No space left on device\); free space"):  # noqa: PT012 - either line
        writer.write(smooth(count))
        writer.close()
    with pytest.raises(UserError, match="No space left"):
        writer.write(smooth(1))
    assert not (tmp_path / "a.mp4").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a POSIX thing")
@pytest.mark.parametrize("missing", [1, 400, 20_000])
def test_a_disk_that_fills_up_never_passes_for_success(tmp_path: Path, missing: int) -> None:
    """A file size limit stands for the full disk: FFmpeg alone is silent where only the last bytes do not fit."""
    room = write(tmp_path / "whole.mp4", smooth(60)).stat().st_size - missing
    body = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room})); write(Path(sys.argv[2]), smooth(60))"
    )
    with python(tmp_path, body) as process:
        assert b"UserError: Writing" in (printed := process.communicate()[1])
        assert b"File too large" in printed
    assert not (tmp_path / "a.mp4").exists()
    if missing < 1000:
        assert probe(tmp_path / "a.partial.mp4").frames >= 60 - GROUP


def test_bad_arguments_are_sentences(tmp_path: Path) -> None:
    for arguments, words in [
        ((tmp_path / "a.avi", (8, 8), 16), "written as .mp4"),
        ((tmp_path / "a.mp4", (0, 8), 16), "must be positive"),
        ((tmp_path / "a.mp4", (8, 8), 0), "must be positive"),
        ((tmp_path / "a.mp4", (8, 8), 16, 1, 52), "crf must lie between"),
        ((tmp_path / "nowhere" / "a.mp4", (8, 8), 16), "cannot be written"),
    ]:
        with pytest.raises(UserError, match=words):
            VideoWriter(*arguments)
    with VideoWriter(tmp_path / "a.mp4", (96, 64), 16) as writer:
        for frames_ in (smooth(1).astype(np.float32), smooth(1)[0], smooth(1, 64, 96)):
            with pytest.raises(ValueError, match="Expected uint8"):
                writer.write(frames_)
        writer.write(smooth(1))
