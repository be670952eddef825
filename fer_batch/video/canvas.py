"""Drawing on the planes of a frame, in the colours of its encoder, without a conversion to RGB and back."""

import functools
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

Box = tuple[int, int, int, int]
"""xyxy in pixels. Parts outside the frame are ignored."""

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """The planes of one upright frame. All methods change them in place."""

    planes: tuple[np.ndarray, np.ndarray, np.ndarray]
    """Luma, `(H, W) uint8` with even H and W, and two colour planes, `(H / 2, W / 2) uint8`."""
    yuv_to_rgb: tuple[float, ...]
    """The `yuv_to_rgb_matrix` of these planes."""

    @property
    def width(self) -> int:
        return int(self.planes[0].shape[1])

    @property
    def height(self) -> int:
        return int(self.planes[0].shape[0])

    def fill(self, box: Box, colour: str, opacity: float = 1.0) -> None:
        """Fill a box with a colour, "#rrggbb"; `opacity` is 0 to 1."""
        values = _to_yuv(colour, self.yuv_to_rgb)
        for region, value in zip(self._regions(box), values, strict=True):
            region[:] = value if opacity == 1 else region * (1 - opacity) + (value * opacity + 0.5)

    def outline(self, box: Box, colour: str, width: int) -> None:
        """Draw a border of a width in pixels inside a box."""
        x0, y0, x1, y1 = box
        self.fill((x0, y0, x1, y0 + width), colour)
        self.fill((x0, y1 - width, x1, y1), colour)
        self.fill((x0, y0, x0 + width, y1), colour)
        self.fill((x1 - width, y0, x1, y1), colour)

    def write_text(self, text: str, x: int, y: int, size: int, colour: str) -> None:
        """Write text of a height in pixels, right of `x` and below `y`, in black or white ("#rrggbb").

        Only luma changes, so that the background keeps its colour.
        """
        mask = render_text(text, size)
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + mask.shape[1], self.width), min(y + mask.shape[0], self.height)
        if x1 <= x0 or y1 <= y0:
            return
        opacity = mask[y0 - y : y1 - y, x0 - x : x1 - x]
        region = self.planes[0][y0:y1, x0:x1]
        value = _to_yuv(colour, self.yuv_to_rgb)[0]
        region[:] = region * (1 - opacity) + (value * opacity + 0.5)

    def pixelate(self, box: Box, cells: int) -> None:
        """Replace a box by the means of at most `cells` × `cells` parts of it."""
        for region in self._regions(box):
            if not region.size:
                continue
            rows, columns = (np.linspace(0, n, min(cells, n) + 1).astype(int) for n in region.shape)
            sums = np.add.reduceat(np.add.reduceat(region.astype(np.uint32), rows[:-1], 0), columns[:-1], 1)
            heights, widths = np.diff(rows), np.diff(columns)
            means = (sums / np.outer(heights, widths)).round().astype(np.uint8)
            region[:] = means.repeat(heights, 0).repeat(widths, 1)

    def _regions(self, box: Box) -> list[np.ndarray]:
        """Return the part of each plane that a box covers."""
        x0, x1 = (min(max(x, 0), self.width) for x in (box[0], box[2]))
        y0, y1 = (min(max(y, 0), self.height) for y in (box[1], box[3]))
        luma, *colours = self.planes
        halves = [plane[y0 // 2 : (y1 + 1) // 2, x0 // 2 : (x1 + 1) // 2] for plane in colours]
        return [luma[y0:y1, x0:x1], *halves]


@functools.lru_cache(maxsize=1024)
def render_text(text: str, size: int) -> np.ndarray:
    """Return the share of each pixel that the letters cover, `(h, w) float32`, 0 to 1."""
    font = ImageFont.truetype(str(FONT), size)
    width = max(round(font.getlength(text)), 1)
    image = Image.new("L", (width, round(size * 1.2)))
    ImageDraw.Draw(image).text((0, 0), text, 255, font)
    return np.asarray(image, np.float32) / 255


@functools.cache
def _to_yuv(colour: str, yuv_to_rgb: tuple[float, ...]) -> list[int]:
    """Return the values of "#rrggbb" in the planes of a frame."""
    matrix = np.array(yuv_to_rgb).reshape(3, 4)
    rgb = np.array(ImageColor.getrgb(colour))
    values = np.linalg.solve(matrix[:, :3], rgb - matrix[:, 3])
    return np.clip(np.round(values), 0, 255).astype(int).tolist()
