"""Compare frames by small grey thumbnails to find the region that changed."""

import numpy as np
from PIL import Image

from fer_batch.video.planes import Picture

THUMBNAIL_SHAPE = (18, 32)
SAMPLES_PER_CELL = 8
"""Pixels across, and pixels down, that are averaged for one cell of the thumbnail."""
MIN_CHANGE = 3.0
"""Grey levels by which a cell changes at least where something moves."""
BODY_REACH = 2.0
"""Half of the width of a person's body and hands, in sides of the face."""
MARGIN_CELLS = 2
"""Cells around a change that are searched too."""


def make_thumbnail(picture: Picture) -> np.ndarray:
    """Return an `(18, 32) float32` grey thumbnail, 0–255."""
    rows, columns = THUMBNAIL_SHAPE
    size = columns * SAMPLES_PER_CELL, rows * SAMPLES_PER_CELL
    grey = picture.to_grey(picture.y.resize(size, Image.Resampling.NEAREST)).astype(np.float32)
    lines = grey.reshape(rows, SAMPLES_PER_CELL, size[0]).sum(axis=1)  # faster than both axes at once
    return lines.reshape(rows, columns, SAMPLES_PER_CELL).sum(axis=2) / np.float32(SAMPLES_PER_CELL**2)


def find_changed_region(
    before: np.ndarray, after: np.ndarray, faces: np.ndarray, size: tuple[float, float]
) -> np.ndarray | None:
    """Return the box `(4,)` around all cells that changed between two thumbnails, None if there are none.

    `size` is the picture's width and height in square pixels. Changes around the `(n, 4)` boxes of the
    `faces` that are known `before`, and of the bodies below them, do not count.
    """
    rows, columns = THUMBNAIL_SHAPE
    cell_size = np.array([size[0] / columns, size[1] / rows] * 2)
    changed = np.abs(after - before) >= MIN_CHANGE
    for x0, y0, x1, y1 in faces:
        reach = max(x1 - x0, y1 - y0)
        x, y, half_body = (x0 + x1) / 2, (y0 + y1) / 2, BODY_REACH * reach
        surroundings = x - reach, y - reach, x + reach, y + reach
        for known in (surroundings, (x - half_body, y1, x + half_body, size[1])):
            cells = np.array(known) / cell_size
            left, top = np.maximum(np.floor(cells[:2]), 0).astype(int)
            right, bottom = np.maximum(np.ceil(cells[2:]), 0).astype(int)
            changed[top:bottom, left:right] = False
    places = np.argwhere(changed)[:, ::-1]  # (n, 2) columns and rows
    if not len(places):
        return None
    box = np.concatenate([places.min(axis=0) - MARGIN_CELLS, places.max(axis=0) + 1 + MARGIN_CELLS])
    return np.clip(box, 0, [columns, rows, columns, rows]) * cell_size
