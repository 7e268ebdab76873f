"""Pictures as cameras, browsers and editors save them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rollforge.data.opening import opening_frames
from rollforge.data.pictures import is_picture, read_picture
from rollforge.errors import UserError

RED, GREEN, BLUE, GREY = (200, 30, 30), (30, 200, 30), (30, 30, 200), (90, 90, 90)
STORED = {  # what the EXIF standard says: where the first row and the first column of what is stored belong
    1: lambda shown: shown,
    2: lambda shown: shown[:, ::-1],
    3: lambda shown: shown[::-1, ::-1],
    4: lambda shown: shown[::-1],
    5: lambda shown: shown.transpose(1, 0, 2),
    6: lambda shown: np.rot90(shown, 1),
    7: lambda shown: shown[::-1, ::-1].transpose(1, 0, 2),
    8: lambda shown: np.rot90(shown, -1),
}
LOSSY = 12  # levels that a lossy format may be off


def quarters() -> NDArray[np.uint8]:
    """Four colours, 48 pixels high and 32 wide."""
    picture = np.empty((48, 32, 3), np.uint8)
    picture[:24, :16], picture[:24, 16:], picture[24:, :16], picture[24:, 16:] = RED, GREEN, BLUE, GREY
    return picture


def corners(picture: NDArray[np.uint8]) -> NDArray[np.int64]:
    return picture[[4, 4, -4, -4], [4, -4, 4, -4]].astype(int)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff", ".avif"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_picture_is_turned_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif, file = Image.Exif(), tmp_path / f"a{suffix}"
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(STORED[orientation](quarters()))).save(file, exif=exif, quality=95)
    picture = read_picture(file)
    assert picture.shape == (48, 32, 3)
    assert np.abs(corners(picture) - corners(quarters())).max() <= LOSSY


def saved(path: Path, image: Image.Image, **how: object) -> Path:
    image.save(path, **how)
    return path


def transparent(mode: str) -> Image.Image:
    """Red in the middle of what is transparent, under which an editor has left green."""
    pixels = np.full((8, 8, 4), (0, 255, 0, 0), np.uint8)
    pixels[2:6, 2:6] = (*RED, 255)
    return Image.fromarray(pixels).convert(mode)


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([*RED, 0, 255, 0])
    palette.paste(0, (2, 2, 6, 6))
    pictures = {
        "rgba.png": read_picture(saved(tmp_path / "rgba.png", transparent("RGBA"))),
        "rgba.webp": read_picture(saved(tmp_path / "rgba.webp", transparent("RGBA"), lossless=True)),
        "palette.png": read_picture(saved(tmp_path / "palette.png", palette, transparency=1)),
        "palette.gif": read_picture(saved(tmp_path / "palette.gif", palette, transparency=1)),
        "half.png": read_picture(saved(tmp_path / "half.png", Image.new("RGBA", (8, 8), (0, 0, 0, 128)))),
        "grey.png": read_picture(saved(tmp_path / "grey.png", Image.new("LA", (8, 8), (0, 0)))),
    }
    assert {name: picture[0, 0].tolist() for name, picture in pictures.items()} == {
        **{name: [255, 255, 255] for name in pictures},
        "half.png": [127, 127, 127],
    }
    assert {pictures[name][4, 4].tolist() == list(RED) for name in list(pictures)[:4]} == {True}


def test_every_kind_of_number_becomes_eight_bits(tmp_path: Path) -> None:
    ramp = np.array([[0, 257 * 33, 257 * 129, 65535]], np.uint16)
    for name in ("deep.png", "deep.tiff"):
        assert read_picture(saved(tmp_path / name, Image.fromarray(ramp)))[0, :, 1].tolist() == [0, 33, 129, 255]
    (tmp_path / "big.tiff").write_bytes(_big_endian(ramp))
    assert read_picture(tmp_path / "big.tiff")[0, :, 1].tolist() == [0, 33, 129, 255]
    modes: dict[str, object] = {"1": 1, "L": 90, "RGB": GREY, "CMYK": (0, 0, 0, 165), "YCbCr": (90, 128, 128)}
    for mode, colour in modes.items():
        picture = read_picture(saved(tmp_path / f"{mode}.tiff", Image.new(mode, (4, 4), colour)))  # type: ignore[arg-type]
        assert picture.max() - picture.min() <= 1
        assert picture[0, 0, 0] == (255 if mode == "1" else 90)
    for name in ("I", "F"):
        with pytest.raises(UserError, match=r"has 32 bits a channel; save it with 8 or 16"):
            read_picture(saved(tmp_path / f"{name}.tiff", Image.new(name, (4, 4), 70_000)))


def _big_endian(ramp: NDArray[np.uint16]) -> bytes:
    """A TIFF as a Macintosh wrote it."""
    tags = [(256, ramp.shape[1]), (257, 1), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 8)]
    entries = b"".join(
        tag.to_bytes(2, "big") + b"\0\4" + (1).to_bytes(4, "big") + value.to_bytes(4, "big") for tag, value in tags
    )
    start = 8 + ramp.nbytes
    return b"MM\0*" + start.to_bytes(4, "big") + ramp.astype(">u2").tobytes() + b"\0\x09" + entries + bytes(4)


def test_an_animation_is_no_picture(tmp_path: Path) -> None:
    images = [Image.fromarray(np.full((64, 64, 3), 20 * n, np.uint8)) for n in range(8)]
    more = {"save_all": True, "append_images": images[1:], "duration": 100}
    files = {suffix: saved(tmp_path / f"a{suffix}", images[0], **more) for suffix in (".gif", ".png", ".webp")}
    assert {suffix: is_picture(file) for suffix, file in files.items()} == {".gif": False, ".png": False, ".webp": True}
    taken = opening_frames(files[".gif"], (64, 64), fps=10, most=3)
    assert np.abs(taken.mean((1, 2, 3)) - [100, 120, 140]).max() <= 3
    with pytest.raises(UserError, match=r"a.webp is an animation; save it as a video"):
        read_picture(files[".webp"])
    assert is_picture(saved(tmp_path / "still.gif", images[0]))
    assert is_picture(saved(tmp_path / "pages.tiff", images[0], save_all=True, append_images=images[1:]))
    assert read_picture(tmp_path / "pages.tiff").max() == 0
