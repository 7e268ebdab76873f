"""Pictures as cameras, browsers and editors save them: upright, in 8 bits a channel, on a plain ground.

Colour profiles are not applied. Of a file with several pages or views the first is taken.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from rollforge.errors import UserError
from rollforge.files.reading import check_size, open_regular
from rollforge.video import PICTURES

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")  # whatever the name says; others start programs
FILMS = ("GIF", "PNG")  # whose animations are read as videos
STILL = ("JPEG", "MPO", "TIFF", "BMP")  # which have pages or views, and no animations
GROUND = (255, 255, 255)  # behind what is transparent
BAD = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
"""What Pillow raises for a damaged file."""

log = logging.getLogger(__name__)


Turn = Image.Transpose
TURNS = {
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_270,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_90,
}
"""What brings a picture upright, by its EXIF orientation."""


def is_picture(path: Path) -> bool:
    """Whether a file is to be read as a picture: it has a picture's name and is not an animation."""
    if path.suffix.lower() not in PICTURES:
        return False
    try:
        with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
            return image.format not in FILMS or not getattr(image, "is_animated", False)
    except BAD:
        return True  # and ``read_picture`` says what is wrong with it


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A picture, uint8 ``[height, width, 3]``, turned as its EXIF data says; what is transparent becomes white.

    Raises:
        UserError: for a file that cannot be read, is too large, has 32 bits a channel, or is an animation.
    """
    try:
        with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
            check_size(path, *image.size)
            if image.format not in STILL and getattr(image, "is_animated", False):
                raise UserError(f"{path} is an animation; save it as a video (.mp4), or give one of its pictures.")
            image.load()
            return np.asarray(_upright(_opaque(_eight_bits(image, path)), image, path))
    except BAD as error:
        raise UserError(f"The picture {path} cannot be read ({error}); expected a PNG or JPEG.") from error


def _eight_bits(image: Image.Image, path: Path) -> Image.Image:
    """Grey pictures of 16 bits scaled to 8; those of other modes are brought there by Pillow itself."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return Image.fromarray((np.asarray(image, np.float32) / 257).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UserError(f"The picture {path} has 32 bits a channel; save it with 8 or 16.")
    return image


def _opaque(image: Image.Image) -> Image.Image:
    """RGB, over a plain ground where the picture is transparent; editors leave any colour there."""
    if image.mode not in ("LA", "La", "PA", "RGBA", "RGBa") and "transparency" not in image.info:
        return image.convert("RGB")
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, GROUND), seen).convert("RGB")


def _upright(picture: Image.Image, image: Image.Image, path: Path) -> Image.Image:
    """The picture turned as the EXIF data of the image says."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception as error:  # what Pillow raises depends on where the data is damaged
        log.warning("The EXIF data of %s cannot be read (%s); the picture is taken as it lies.", path, error)
        return picture
    return picture if turn is None else picture.transpose(turn)
