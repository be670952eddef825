"""Cut faces to grey 48×48 squares, framed like the images of FER2013."""

import numpy as np
from PIL import Image

from fer_batch.config import CROP_SIZE_PX
from fer_batch.video.planes import Picture

REDUCING_GAP = 2.0
"""A larger face is first shrunk by a whole number to this multiple of the crop. The loss is invisible."""


def crop_faces(picture: Picture, boxes: np.ndarray, scale: float, pixel_aspect: float = 1.0) -> np.ndarray:
    """Cut `(n, 4)` xyxy boxes, in pixels of the picture, to `(n, 48, 48) uint8` grey crops.

    A crop is a square around the centre of its box, `scale` times as high as the box. `pixel_aspect` is the
    width of a pixel over its height; the square is square on the screen. Outside the frame, its edge is
    repeated.
    """
    crops = np.empty((len(boxes), CROP_SIZE_PX, CROP_SIZE_PX), np.uint8)
    for index, (x0, y0, x1, y1) in enumerate(np.asarray(boxes, np.float64)):
        half_height = max(scale * (y1 - y0) / 2, 0.5)
        half_width = half_height / pixel_aspect
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        crops[index] = _crop(picture, x - half_width, y - half_height, x + half_width, y + half_height)
    return crops


def _crop(picture: Picture, x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    width, height = picture.width, picture.height
    left, top, right, bottom = int(np.floor(x0)), int(np.floor(y0)), int(np.ceil(x1)), int(np.ceil(y1))
    columns = slice(min(max(left, 0), width - 1), max(min(right, width), 1))
    rows = slice(min(max(top, 0), height - 1), max(min(bottom, height), 1))
    region = picture.y.crop((columns.start, rows.start, columns.stop, rows.stop))
    outside = ((rows.start - top, bottom - rows.stop), (columns.start - left, right - columns.stop))
    if any(n for pair in outside for n in pair):
        padding = tuple((max(a, 0), max(b, 0)) for a, b in outside)
        region = Image.fromarray(np.pad(np.asarray(region), padding, mode="edge"))
    x, y = left if left < columns.start else columns.start, top if top < rows.start else rows.start
    box = (max(x0 - x, 0), max(y0 - y, 0), min(x1 - x, region.width), min(y1 - y, region.height))
    crop = region.resize((CROP_SIZE_PX, CROP_SIZE_PX), Image.Resampling.BILINEAR, box, REDUCING_GAP)
    return picture.to_grey(crop)
