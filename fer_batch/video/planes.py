"""Frames as luma and colour planes. Only the parts that an analysis needs become RGB or grey."""

import functools
from dataclasses import dataclass
from typing import Self

import numpy as np
from PIL import Image

BT601_WEIGHTS = (0.299, 0.114)
"""Weights of red and blue in luma (ITU-R BT.601)."""
LUMA_WEIGHTS = {1: (0.2126, 0.0722), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
"""Weights of red and blue in luma by colour space (ITU-T H.273): BT.709, SMPTE 240M, BT.2020."""
REDUCING_GAP = 1.0
"""Factor from which Pillow first shrinks by a whole number, which is fast, and averages only the rest."""


def yuv_to_rgb_matrix(red: float, blue: float, full_range: bool) -> tuple[float, ...]:
    """Return the 3×4 matrix, row by row, from (y, u, v, 1) to red, green and blue.

    `red` and `blue` are their weights in luma. In full range, planes hold 0 to 255. In limited range, luma
    holds 16 to 235 and colour 16 to 240 (ITU-R BT.601, BT.709, BT.2020).
    """
    luma, colour, black = (1.0, 1.0, 0) if full_range else (255 / 219, 255 / 224, 16)
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


JPEG_TO_RGB = yuv_to_rgb_matrix(*BT601_WEIGHTS, full_range=True)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The planes of one upright frame: PIL images of mode "L" that may share the decoder's memory."""

    y: Image.Image
    """Luma, `width` × `height`."""
    u: Image.Image
    v: Image.Image
    """Colour differences, as large as `y` or smaller."""
    yuv_to_rgb: tuple[float, ...] = JPEG_TO_RGB
    """The `yuv_to_rgb_matrix` of these planes."""
    shrink: float = 1.0
    """Lines of the stored frame per line of the picture."""

    @classmethod
    def from_rgb(cls, image: np.ndarray) -> Self:
        """Return the picture of an `(H, W, 3) uint8` RGB image."""
        y, u, v = Image.fromarray(image).convert("YCbCr").split()
        return cls(y=y, u=u, v=v)

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.y.width

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.y.height

    def to_rgb(self) -> np.ndarray:
        """Return the whole picture as `(H, W, 3) uint8` RGB."""
        return self.crop_rgb((0, 0, self.width, self.height), (self.width, self.height))

    def crop_rgb(self, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
        """Return the content of a box, scaled to `size` (width, height), as `(h, w, 3) uint8` RGB.

        `box` is xyxy in pixels, inside the picture. Each new pixel is the average of the area that it covers,
        as in MTCNN's own scaling.
        """
        planes = []
        for plane in (self.y, self.u, self.v):
            x_scale, y_scale = plane.width / self.width, plane.height / self.height
            plane_box = (box[0] * x_scale, box[1] * y_scale, box[2] * x_scale, box[3] * y_scale)
            planes.append(plane.resize(size, Image.Resampling.BOX, plane_box, REDUCING_GAP))
        return np.asarray(Image.merge("RGB", planes).convert("RGB", self.yuv_to_rgb))

    def to_grey(self, region: Image.Image) -> np.ndarray:
        """Return a region of `y` as `(h, w) uint8` grey, where black is 0 and white 255 in either range."""
        luma, _, colour, offset = self.yuv_to_rgb[:4]
        return _grey_table(luma, offset + 128 * colour)[np.asarray(region)]


@functools.cache
def _grey_table(luma: float, offset: float) -> np.ndarray:
    return np.clip(np.round(np.arange(256) * luma + offset), 0, 255).astype(np.uint8)
