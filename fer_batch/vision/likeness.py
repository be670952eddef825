"""Describe faces by their colours, to recognize a face in the next sampled frame."""

import math

import numpy as np
from PIL import Image

from fer_batch.video.planes import Picture

SIDE = 1.2
"""Side of the square around a face that is described, in heights of its box."""
POINTS = 24
"""Points across, and points down, of the square."""
LUMA_BINS, COLOUR_BINS, COLOUR_STEP = 8, 10, 10
"""Bins of brightness and of each colour difference, and the width of a colour bin."""
BINS = LUMA_BINS * COLOUR_BINS**2
SMOOTHING_BINS = 0.7
"""Standard deviation by which histograms are smoothed, so that values near a bin's edge are compared well."""


def describe_faces(picture: Picture, boxes: np.ndarray, pixel_aspect: float = 1.0) -> np.ndarray:
    """Return a histogram of the colours of each face, `(n, bins) float32`, as roots of shares.

    `boxes` is `(n, 4)` xyxy in pixels of the picture. `pixel_aspect` is the width of a pixel over its height.
    """
    counts = np.zeros((len(boxes), BINS), np.float32)
    for index, box in enumerate(np.asarray(boxes, np.float64).tolist()):
        counts[index] = np.bincount(_bin_colours(picture, box, pixel_aspect).ravel(), minlength=BINS)
    smooth = _LUMA_KERNEL @ counts.reshape(-1, LUMA_BINS, COLOUR_BINS**2)
    smooth = _COLOUR_KERNEL @ smooth.reshape(-1, LUMA_BINS, COLOUR_BINS, COLOUR_BINS) @ _COLOUR_KERNEL.T
    smooth = smooth.reshape(counts.shape)
    return np.sqrt(smooth / np.maximum(smooth.sum(axis=1, keepdims=True), 1e-9))


def measure_distances(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the Hellinger distances `(m, n)`, 0–1, of `(m, bins)` and `(n, bins)` histograms."""
    distances: np.ndarray = np.sqrt(np.clip(1 - before @ after.T, 0, 1))
    return distances


def _bin_colours(picture: Picture, box: list[float], pixel_aspect: float) -> np.ndarray:
    """Return the bins `(h, w)` of the points of the square that are inside the picture."""
    x0, y0, x1, y1 = box
    height = max(y1 - y0, 2.0)
    ranges = []
    for centre, side, end in (
        ((x0 + x1) / 2, SIDE * height / pixel_aspect, picture.width),
        ((y0 + y1) / 2, SIDE * height, picture.height),
    ):
        start, step = centre - side / 2, side / POINTS
        first = min(max(math.ceil(-start / step), 0), POINTS - 1)
        last = max(min(math.floor((end - start) / step), POINTS), first + 1)
        low = min(max(start + first * step, 0), end - 1)
        ranges.append((low, min(max(start + last * step, low + 1), end), last - first))
    (left, right, columns), (top, bottom, rows) = ranges
    planes = []
    for plane in (picture.y, picture.u, picture.v):
        x_scale, y_scale = plane.width / picture.width, plane.height / picture.height
        part = left * x_scale, top * y_scale, right * x_scale, bottom * y_scale
        image = plane.resize((columns, rows), Image.Resampling.NEAREST, part)
        planes.append(np.asarray(image))
    y, u, v = planes
    bins: np.ndarray = _LUMA_TABLE[y] + _COLOUR_TABLE[u] * COLOUR_BINS + _COLOUR_TABLE[v]
    return bins


def _make_kernel(bins: int) -> np.ndarray:
    distance = np.subtract.outer(np.arange(bins), np.arange(bins))
    kernel = np.exp(-0.5 * (distance / SMOOTHING_BINS) ** 2)
    return (kernel / kernel.sum(axis=0)).astype(np.float32)


_LUMA_KERNEL, _COLOUR_KERNEL = _make_kernel(LUMA_BINS), _make_kernel(COLOUR_BINS)
_LUMA_TABLE = np.arange(256) * LUMA_BINS // 256 * COLOUR_BINS**2
_COLOUR_TABLE = np.clip((np.arange(256) - 128) // COLOUR_STEP + COLOUR_BINS // 2, 0, COLOUR_BINS - 1)
