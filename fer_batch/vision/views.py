"""Make the images that P-Net scans: a scaled picture, a region of it, or the neighbourhood of a lost face."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fer_batch.video.planes import Picture

PNET_PX = 12
"""Side of the square that P-Net classifies."""
MIN_FACE_PX = 16
"""Minimum height of the smallest wanted face after a picture is halved. A smaller picture costs less time."""
SENT_FACE_PX = 16.0
"""Height of the smallest wanted face in a view that is sent, of 569×320 pixels and 273 kB by default. At 14.4
pixels, one of 115 faces was lost."""
PYRAMID_STEP = 0.709
"""Scale from one level of the pyramid to the next."""
NEAR_FACE_PX = 24
"""Height of a lost face's box in the view around it."""
NEAR_SIDE = 3.5
"""Side of the view around a lost face, in sides of its box."""
NEAR_SCALE = 1.6
"""Largest factor by which a lost face may have grown or shrunk."""


@dataclass(frozen=True)
class SearchView:
    """An image of a picture, or of a part of it, with square pixels."""

    image: Image.Image | Picture
    """An RGB image, or planes whose colours have half its size."""
    picture: int
    """Index of the picture."""
    left: float
    top: float
    """Position of the view in square pixels of the picture."""
    scale: float
    """Square pixels of the picture per pixel of the view."""
    min_face_px: float
    max_face_px: float
    """Range of face heights to detect, in pixels of the view."""

    def to_rgb(self) -> Image.Image:
        """Return the RGB image."""
        return Image.fromarray(self.image.to_rgb()) if isinstance(self.image, Picture) else self.image


def view_picture(
    index: int, picture: Picture, region: np.ndarray | None, min_face: float, pixel_aspect: float
) -> SearchView:
    """View a picture or a region of it, halved as often as `MIN_FACE_PX` allows.

    `region` is `(4,)` xyxy in square pixels. `min_face` is a share of the picture's height.
    """
    halvings = max(math.floor(math.log2(max(min_face * picture.height / MIN_FACE_PX, 1))), 0)
    box, size, scale = _place_view(picture, region, 2**halvings, pixel_aspect)
    image = picture.crop_image((box[0] / pixel_aspect, box[1], box[2] / pixel_aspect, box[3]), size)
    min_face_px = min_face * picture.height / scale
    return SearchView(image, index, box[0], box[1], scale, min_face_px, math.inf)


def view_planes(
    index: int, picture: Picture, region: np.ndarray | None, min_face: float, pixel_aspect: float
) -> SearchView:
    """View a picture or a region of it as planes, scaled down to `SENT_FACE_PX`. See `view_picture`."""
    shrink = max(min_face * picture.height / SENT_FACE_PX, 1.0)
    box, size, scale = _place_view(picture, region, shrink, pixel_aspect)
    planes = picture.crop_planes((box[0] / pixel_aspect, box[1], box[2] / pixel_aspect, box[3]), size)
    min_face_px = min_face * picture.height / scale
    return SearchView(planes, index, box[0], box[1], scale, min_face_px, math.inf)


def _place_view(
    picture: Picture, region: np.ndarray | None, shrink: float, pixel_aspect: float
) -> tuple[tuple[float, float, float, float], tuple[int, int], float]:
    """Return the box of a view in square pixels, its size, and the square pixels per pixel of the view."""
    whole = (0.0, 0.0, picture.width * pixel_aspect, float(picture.height))
    x0, y0, x1, y1 = whole if region is None else region.tolist()
    size = max(round((x1 - x0) / shrink), 1), max(round((y1 - y0) / shrink), 1)
    return (x0, y0, x1, y1), size, (y1 - y0) / size[1]


def view_neighbourhood(index: int, picture: Picture, box: np.ndarray, pixel_aspect: float) -> SearchView:
    """View the neighbourhood of a box `(4,)`, scaled so that the box has `NEAR_FACE_PX` pixels."""
    x0, y0, x1, y1 = box.tolist()
    side = max(x1 - x0, y1 - y0, 1.0)
    picture_width, picture_height = picture.width * pixel_aspect, float(picture.height)
    width, height = min(NEAR_SIDE * side, picture_width), min(NEAR_SIDE * side, picture_height)
    left = min(max((x0 + x1 - width) / 2, 0), picture_width - width)
    top = min(max((y0 + y1 - height) / 2, 0), picture_height - height)
    size = max(round(NEAR_FACE_PX * width / side), 1), max(round(NEAR_FACE_PX * height / side), 1)
    source = (left / pixel_aspect, top, (left + width) / pixel_aspect, top + height)
    image = picture.crop_image(source, size)
    range_px = NEAR_FACE_PX / NEAR_SCALE, NEAR_FACE_PX * NEAR_SCALE
    return SearchView(image, index, left, top, side / NEAR_FACE_PX, *range_px)


def list_levels(
    size: tuple[int, int], min_face_px: float, max_face_px: float
) -> list[tuple[float, tuple[int, int]]]:
    """Return the levels of MTCNN's pyramid as (scale, size), from the smallest wanted face to the largest.

    `size` is that of the view. At each scale, faces of one size have P-Net's 12 pixels.
    """
    scale = PNET_PX / min_face_px
    levels = []
    while min(size) * scale >= PNET_PX and PNET_PX / scale < max_face_px:
        levels.append((scale, (int(size[0] * scale + 1), int(size[1] * scale + 1))))
        scale *= PYRAMID_STEP
    return levels


def build_pyramid(view: SearchView) -> list[tuple[float, Image.Image]]:
    """Return the levels of a view as (scale, image).

    The view is halved as long as it stays at least as large as the level, and then scaled to it.
    """
    levels, source = [], view.to_rgb()
    for scale, size in list_levels(view.image.size, view.min_face_px, view.max_face_px):
        while source.width >= 2 * size[0] and source.height >= 2 * size[1]:
            source = source.reduce(2)
        levels.append((scale, source.resize(size, Image.Resampling.BOX)))
    return levels
