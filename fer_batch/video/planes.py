"""A frame as its decoder left it, luma and two colour planes: only what is looked at becomes RGB or grey."""

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image


def rgb_matrix(red: float, blue: float, full: bool) -> tuple[float, ...]:
    """Rows of factors of y, u, v and 1 for red, green and blue, from what a colour space gives red and blue
    of luma's weight (ITU-R BT.601, 709 and 2020), for full range (0 to 255) or limited (luma 16 to 235).
    """
    luma, colour, black = (1.0, 1.0, 0) if full else (255 / 219, 255 / 224, 16)
    green = 1 - red - blue
    factors = (
        (0.0, 2 * (1 - red)),
        (-2 * (1 - blue) * blue / green, -2 * (1 - red) * red / green),
        (2 * (1 - blue), 0.0),
    )
    return tuple(
        number
        for u, v in factors
        for number in (luma, u * colour, v * colour, -luma * black - 128 * colour * (u + v))
    )


REDUCING_GAP = 1.0
"""What is larger than its size is first shrunk by a whole number, which is quick, and averaged only then."""
JPEG = rgb_matrix(0.299, 0.114, full=True)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One upright frame. The planes are PIL images of mode "L" that may share the decoder's memory."""

    y: Image.Image
    """Luma, `width` × `height`."""
    u: Image.Image
    v: Image.Image
    """Colour differences, as large as `y` or coarser."""
    to_rgb: tuple[float, ...] = JPEG
    """The planes' own `rgb_matrix`."""
    shrink: float = 1.0
    """Lines of the frame as stored for each line of the picture."""

    @property
    def width(self) -> int:
        """Pixels of the planes."""
        return self.y.width

    @property
    def height(self) -> int:
        """Pixels of the planes."""
        return self.y.height


def picture_of(image: np.ndarray) -> Picture:
    """`(H, W, 3) uint8` RGB to a picture."""
    y, u, v = Image.fromarray(image).convert("YCbCr").split()
    return Picture(y=y, u=u, v=v)


def grey_of(picture: Picture, region: Image.Image) -> np.ndarray:
    """A part of the picture's luma as grey, `(h, w) uint8`: black is 0 and white 255, whatever the range."""
    luma, _, colour, offset = picture.to_rgb[:4]
    return _greys(luma, offset + 128 * colour)[np.asarray(region)]


@functools.cache
def _greys(luma: float, offset: float) -> np.ndarray:
    return np.clip(np.round(np.arange(256) * luma + offset), 0, 255).astype(np.uint8)


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
        parts.append(plane.resize(size, Image.Resampling.BOX, there, REDUCING_GAP))
    return np.asarray(Image.merge("RGB", parts).convert("RGB", picture.to_rgb))
