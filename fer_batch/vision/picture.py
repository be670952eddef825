"""A frame as its decoder left it, luma and two colour planes: only what is looked at becomes RGB or grey."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

JPEG = (1.0, 0.0, 1.402, -179.456, 1.0, -0.344136, -0.714136, 135.458816, 1.0, 1.772, 0.0, -226.816)
"""Full range, BT.601: rows of factors of y, u, v and 1 for red, green, blue."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One upright frame. The planes are PIL images of mode "L" that may share the decoder's memory."""

    y: Image.Image
    """Luma, `width` × `height`."""
    u: Image.Image
    v: Image.Image
    """Colour differences, as large as `y` or coarser."""
    to_rgb: tuple[float, ...] = JPEG
    """Twelve numbers as in `JPEG`, for the range and colour space of the planes."""

    @property
    def width(self) -> int:
        """Pixels as stored."""
        return self.y.width

    @property
    def height(self) -> int:
        """Pixels as stored."""
        return self.y.height


def picture_of(image: np.ndarray) -> Picture:
    """`(H, W, 3) uint8` RGB to a picture."""
    y, u, v = Image.fromarray(image).convert("YCbCr").split()
    return Picture(y=y, u=u, v=v)


def rgb_of(picture: Picture) -> np.ndarray:
    """The whole picture, `(H, W, 3) uint8` RGB."""
    return rgb_part(picture, (0, 0, picture.width, picture.height), (picture.width, picture.height))


def rgb_part(picture: Picture, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """What is in `box` (xyxy pixels, inside the picture) at `size` (width, height): `(h, w, 3) uint8` RGB.

    Averages over the area that a pixel covers, as MTCNN's own shrinking does.
    """
    parts = []
    for plane in (picture.y, picture.u, picture.v):
        wide, high = plane.width / picture.width, plane.height / picture.height
        there = (box[0] * wide, box[1] * high, box[2] * wide, box[3] * high)
        parts.append(plane.resize(size, Image.Resampling.BOX, box=there))
    return np.asarray(Image.merge("RGB", parts).convert("RGB", picture.to_rgb))
