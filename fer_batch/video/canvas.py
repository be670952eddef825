"""A frame to draw on, as its encoder takes it: luma, and two colour planes of half its width and height."""

import functools
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fer_batch.video.planes import yuv_to_rgb_matrix

Box = tuple[int, int, int, int]
"""xyxy, in pixels; what lies outside the frame is left out."""

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """Planes of one frame, upright, that are drawn on where they are."""

    planes: tuple[np.ndarray, np.ndarray, np.ndarray]
    """`(H, W) uint8` luma, and twice `(H / 2, W / 2) uint8`; H and W are even."""
    red: float
    """What red, and blue, weigh in luma."""
    blue: float
    full: bool
    """Whether luma is 0 to 255, and not 16 to 235."""

    @property
    def width(self) -> int:
        return int(self.planes[0].shape[1])

    @property
    def height(self) -> int:
        return int(self.planes[0].shape[0])

    def fill(self, box: Box, colour: str, opacity: float = 1.0) -> None:
        """Cover a part of the frame with "#rrggbb"."""
        for plane, value, (x0, y0, x1, y1) in zip(
            self.planes, _yuv(colour, self.red, self.blue, self.full), self._parts(box), strict=True
        ):
            part = plane[y0:y1, x0:x1]
            if opacity == 1:
                part[:] = value
            else:
                part[:] = part * (1 - opacity) + (value * opacity + 0.5)

    def outline(self, box: Box, colour: str, width: int) -> None:
        """Draw a frame of so many pixels inside a box."""
        x0, y0, x1, y1 = box
        for part in (
            (x0, y0, x1, y0 + width),
            (x0, y1 - width, x1, y1),
            (x0, y0, x0 + width, y1),
            (x1 - width, y0, x1, y1),
        ):
            self.fill(part, colour)

    def write(self, text: str, x: int, y: int, size: int, ink: str) -> None:
        """Write text in black or white ("#000000", "#ffffff"), so many pixels high, from (x, y) to the right
        and below; its background stays.
        """
        mask = text_mask(text, size)
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + mask.shape[1], self.width), min(y + mask.shape[0], self.height)
        if x1 <= x0 or y1 <= y0:
            return
        opacity = mask[y0 - y : y1 - y, x0 - x : x1 - x]
        part = self.planes[0][y0:y1, x0:x1]
        value = _yuv(ink, self.red, self.blue, self.full)[0]
        part[:] = part * (1 - opacity) + (value * opacity + 0.5)

    def pixelate(self, box: Box, cells: int) -> None:
        """Leave of a part of the frame so many by so many means, or fewer where it is smaller."""
        for plane, (x0, y0, x1, y1) in zip(self.planes, self._parts(box), strict=True):
            part = plane[y0:y1, x0:x1]
            if part.size:
                part[:] = _means(part, cells)

    def _parts(self, box: Box) -> tuple[Box, Box, Box]:
        """What of each plane a box covers."""
        x0, x1 = (min(max(x, 0), self.width) for x in (box[0], box[2]))
        y0, y1 = (min(max(y, 0), self.height) for y in (box[1], box[3]))
        colour = (x0 // 2, y0 // 2, (x1 + 1) // 2, (y1 + 1) // 2)
        return (x0, y0, x1, y1), colour, colour


def _means(part: np.ndarray, cells: int) -> np.ndarray:
    lines, columns = (np.linspace(0, count, min(cells, count) + 1).astype(int) for count in part.shape)
    sums = np.add.reduceat(np.add.reduceat(part.astype(np.uint32), lines[:-1], 0), columns[:-1], 1)
    heights, widths = np.diff(lines), np.diff(columns)
    means = (sums / np.outer(heights, widths)).round().astype(np.uint8)
    return means.repeat(heights, 0).repeat(widths, 1)


@functools.lru_cache(maxsize=1024)
def text_mask(text: str, size: int) -> np.ndarray:
    """`(h, w) float32`: how much of each pixel the letters cover, 0 to 1."""
    font = ImageFont.truetype(str(FONT), size)
    width = max(round(font.getlength(text)), 1)
    image = Image.new("L", (width, round(size * 1.2)))
    ImageDraw.Draw(image).text((0, 0), text, 255, font)
    return np.asarray(image, np.float32) / 255


@functools.cache
def _yuv(colour: str, red: float, blue: float, full: bool) -> tuple[int, int, int]:
    """The values of "#rrggbb" in a frame's planes."""
    matrix = np.array(yuv_to_rgb_matrix(red, blue, full)).reshape(3, 4)
    rgb = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    values = np.linalg.solve(matrix[:, :3], np.array(rgb) - matrix[:, 3])
    y, u, v = np.clip(np.round(values), 0, 255).astype(int).tolist()
    return y, u, v
