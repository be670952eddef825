"""Describe faces by the colours in and around them, to recognize a face in the next sampled frame."""

import math

import numpy as np
from PIL import Image

from fer_batch.video.planes import Picture

SIDES = (1.2, 2.4)
"""Sides of the two squares around a face that are described, in heights of its box."""
POINTS = 48
"""Points across, and points down, of the larger square."""
LUMA_BINS, COLOUR_BINS, COLOUR_STEP = 8, 10, 10
"""Bins of brightness and of each colour difference, and the width of a colour bin."""
BINS = LUMA_BINS * COLOUR_BINS**2
SMOOTHING_BINS = 0.7
"""Standard deviation by which histograms are smoothed, so that values near a bin's edge are compared well."""


def describe_faces(picture: Picture, boxes: np.ndarray, pixel_aspect: float = 1.0) -> np.ndarray:
    """Return two histograms of the colours of each face, `(n, 2, bins) float32`, as roots of shares.

    `boxes` is `(n, 4)` xyxy in pixels of the picture. `pixel_aspect` is the width of a pixel over its height.
    The first histogram covers the face, and the second also hair, clothes and background around it.
    """
    counts = np.zeros((len(boxes), len(SIDES), BINS), np.float32)
    for index, box in enumerate(np.asarray(boxes, np.float64).tolist()):
        bins, is_near = _bin_colours(picture, box, pixel_aspect)
        near = bins[is_near] if is_near.any() else bins.ravel()
        counts[index] = np.bincount(near, minlength=BINS), np.bincount(bins.ravel(), minlength=BINS)
    smooth = _LUMA_KERNEL @ counts.reshape(-1, LUMA_BINS, COLOUR_BINS**2)
    smooth = _COLOUR_KERNEL @ smooth.reshape(-1, LUMA_BINS, COLOUR_BINS, COLOUR_BINS) @ _COLOUR_KERNEL.T
    smooth = smooth.reshape(counts.shape)
    return np.sqrt(smooth / np.maximum(smooth.sum(axis=2, keepdims=True), 1e-9))


def measure_distances(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the Hellinger distances `(m, n, 2)`, 0–1, of `(m, 2, bins)` and `(n, 2, bins)` histograms."""
    common = np.einsum("mkb,nkb->mnk", before, after)
    return np.sqrt(np.clip(1 - common, 0, 1))


def _bin_colours(picture: Picture, box: list[float], pixel_aspect: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the bins `(h, w)` of the points of the larger square, and which lie in the smaller one.

    Points outside the picture are left out.
    """
    x0, y0, x1, y1 = box
    height = max(y1 - y0, 2.0)
    ranges = []
    for centre, side, end in (
        ((x0 + x1) / 2, SIDES[1] * height / pixel_aspect, picture.width),
        ((y0 + y1) / 2, SIDES[1] * height, picture.height),
    ):
        start, step = centre - side / 2, side / POINTS
        first = min(max(math.ceil(-start / step), 0), POINTS - 1)
        last = max(min(math.floor((end - start) / step), POINTS), first + 1)
        near = np.abs((np.arange(first, last) + 0.5) / POINTS - 0.5) < SIDES[0] / SIDES[1] / 2
        low = min(max(start + first * step, 0), end - 1)
        ranges.append((low, min(max(start + last * step, low + 1), end), near))
    (left, right, is_column), (top, bottom, is_row) = ranges
    planes = []
    for plane in (picture.y, picture.u, picture.v):
        x_scale, y_scale = plane.width / picture.width, plane.height / picture.height
        part = left * x_scale, top * y_scale, right * x_scale, bottom * y_scale
        image = plane.resize((len(is_column), len(is_row)), Image.Resampling.NEAREST, part)
        planes.append(np.asarray(image))
    y, u, v = planes
    return _LUMA_TABLE[y] + _COLOUR_TABLE[u] * COLOUR_BINS + _COLOUR_TABLE[v], is_row[:, None] & is_column


def _make_kernel(bins: int) -> np.ndarray:
    distance = np.subtract.outer(np.arange(bins), np.arange(bins))
    kernel = np.exp(-0.5 * (distance / SMOOTHING_BINS) ** 2)
    return (kernel / kernel.sum(axis=0)).astype(np.float32)


_LUMA_KERNEL, _COLOUR_KERNEL = _make_kernel(LUMA_BINS), _make_kernel(COLOUR_BINS)
_LUMA_TABLE = np.arange(256) * LUMA_BINS // 256 * COLOUR_BINS**2
_COLOUR_TABLE = np.clip((np.arange(256) - 128) // COLOUR_STEP + COLOUR_BINS // 2, 0, COLOUR_BINS - 1)
