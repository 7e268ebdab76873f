"""Odd videos are read as a player shows them, by every reader alike."""

from __future__ import annotations

import importlib.util
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from odd_videos import ODD, UNEVEN_VIDEOS, encoded, is_upright, number
from PIL import Image

from rollforge.data.opening import opening_frames
from rollforge.errors import UserError
from rollforge.video.reader import Backend, frames, probe, read_clip, times

BACKENDS: list[Backend] = ["pyav", "auto", *(["decord"] if importlib.util.find_spec("decord") else [])]


@pytest.mark.parametrize("kind", ODD)
def test_all_readers_show_what_a_player_shows(kind: str, tmp_path: Path) -> None:
    odd = ODD[kind]
    path = tmp_path / odd.name
    odd.write(path)
    numbers, info = list(odd.numbers), probe(path)
    assert (info.frames, (info.width, info.height)) == (len(numbers), odd.size)
    assert info.fps == pytest.approx(odd.fps)
    whole = np.stack(list(frames(path)))
    assert whole.shape == (len(numbers), odd.size[1], odd.size[0], 3)
    assert [number(image) for image in whole] == numbers
    assert all(is_upright(image) for image in whole)
    start = len(numbers) // 3
    for backend in BACKENDS:
        if backend == "decord" and not odd.for_decord:
            with pytest.raises(UserError, match="choose the backend 'pyav'"):
                read_clip(path, 0, 1, backend=backend)
            continue
        clip = read_clip(path, start, len(numbers) - start, backend=backend)
        assert [number(image) for image in clip] == numbers[start:]
        assert all(is_upright(image) for image in clip)
        assert np.abs(clip.astype(int) - whole[start:]).mean() < 3
        strided = read_clip(path, 0, (len(numbers) + 4) // 5, 5, backend)
        assert [number(image) for image in strided] == numbers[::5]
        assert np.array_equal(strided, read_clip(path, 0, len(strided), 5, "pyav"))


@pytest.mark.parametrize("kind", UNEVEN_VIDEOS)
def test_frames_that_come_unevenly_are_shown_at_their_times(kind: str, tmp_path: Path) -> None:
    write, name, moments = UNEVEN_VIDEOS[kind]
    path = tmp_path / name
    write(path)
    info = probe(path)
    assert info.frames == len(moments)
    assert (info.frames - 1) / info.fps == pytest.approx(moments[-1], abs=0.002)
    np.testing.assert_allclose(times(path), moments, atol=0.002)
    middles = (np.arange(info.frames) + 0.5) / info.fps
    expected = [max(n for n, moment in enumerate(moments) if moment <= middle) for middle in middles]
    assert [number(image) for image in frames(path)] == expected
    for backend in ("pyav", "auto"):
        assert [number(image) for image in read_clip(path, 3, 7, 3, backend)] == expected[3:24:3]


@pytest.mark.parametrize("kind", UNEVEN_VIDEOS)
def test_an_opening_takes_the_picture_shown_at_each_moment(kind: str, tmp_path: Path) -> None:
    """Moments count back from the last picture, an eighth of a second each."""
    write, name, moments = UNEVEN_VIDEOS[kind]
    path = tmp_path / name
    write(path)
    wanted = [moments[-1] - n / 8 for n in reversed(range(18))]
    expected = [max(n for n, moment in enumerate(moments) if moment <= then + 1e-6) for then in wanted]
    taken = opening_frames(path, (128, 64), 8.0, 18)
    assert [number(image) for image in taken] == expected
    assert all(is_upright(image) for image in taken)


@pytest.mark.parametrize(
    "text", ["#EXTM3U\n#EXTINF:2.0,\n{other}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {other}\n"]
)
def test_decord_gets_no_playlist_that_goes_on_as_a_video(text: str, tmp_path: Path) -> None:
    """PyAV finds the transport stream behind the list; another reader would open what the list names."""
    film, other = tmp_path / "film.ts", tmp_path / "other.ts"
    ODD["interlaced"].write(film)
    ODD["upside down"].write(other)
    head = text.format(other=other).encode()
    path = tmp_path / "a.mp4"
    path.write_bytes(head + b"#" * (-len(head) % 188) + film.read_bytes())
    try:
        assert [number(image) for image in read_clip(path, 0, 3)] == [0, 1, 2]
    except UserError as error:
        assert "is not a video" in str(error)  # noqa: PT017 - either is right
    with pytest.raises(UserError):
        read_clip(path, 0, 1, backend="decord")


@pytest.mark.parametrize(("name", "kind", "disposal"), [("a.gif", "GIF", 2), ("a.apng", "PNG", 0)])
def test_what_is_transparent_becomes_white(name: str, kind: str, disposal: int, tmp_path: Path) -> None:
    images = [Image.new("RGBA", (32, 16), (200, 0, 0, 255)) for _ in range(3)]
    for n, image in enumerate(images):
        image.paste((0, 0, 0, 0), (16, 0, 32, 16 - n))
    images[0].save(tmp_path / name, kind, save_all=True, append_images=images[1:], duration=100, disposal=disposal)
    shown = list(frames(tmp_path / name))
    assert len(shown) == 3
    for image in shown:
        assert np.array_equal(image[2, 4], (200, 0, 0))
        assert np.array_equal(image[2, 28], (255, 255, 255))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_only_regular_files_are_videos(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    for read in (probe, times, lambda path: list(frames(path)), lambda path: read_clip(path, 0, 1)):
        with pytest.raises(UserError, match="it is a named pipe, not a regular file"):
            read(tmp_path / "a.mp4")


def test_a_mirrored_picture_is_shown_mirrored(tmp_path: Path) -> None:
    """As the front cameras of some phones mark it."""
    path = tmp_path / "a.mp4"
    encoded(store=lambda image: image[:, ::-1], turn=180)(path)
    turned, mirrored = (struct.pack(">5i", -1 << 16, 0, 0, 0, down << 16) for down in (-1, 1))
    content = path.read_bytes()
    assert turned in content
    path.write_bytes(content.replace(turned, mirrored))
    assert all(is_upright(image) for image in frames(path))
    assert all(is_upright(image) for image in read_clip(path, 3, 3))
