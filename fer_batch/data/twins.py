"""Search for images that show the same picture, also after compression, scaling or a change of light."""

import numpy as np

THUMBNAIL_PX = 24
MIN_TWIN_CORRELATION = 0.95
"""Correlation of two thumbnails above which they show the same picture. In FER2013, CK+48 and muxspace, two
different people reach 0.944, and pairs above 0.95 are copies."""
IMAGES_PER_BLOCK = 2048
"""Images that are compared together, to limit the memory."""


def find_twins(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return a `(M,) bool` mask of the `images` that show the same picture as any of the `others`.

    Both are `(M, 48, 48) uint8`. An image of one uniform grey has no twin.
    """
    references = _describe(others).T
    highest = np.zeros(len(images), np.float32)
    for first in range(0, len(images), IMAGES_PER_BLOCK):
        block = slice(first, first + IMAGES_PER_BLOCK)
        highest[block] = (_describe(images[block]) @ references).max(axis=1, initial=0)
    return highest > MIN_TWIN_CORRELATION


def _describe(images: np.ndarray) -> np.ndarray:
    """Return thumbnails `(M, 576) float32` with a mean of 0 and a norm of 1; products are correlations."""
    side = images.shape[1] // THUMBNAIL_PX
    cells = images.reshape(len(images), THUMBNAIL_PX, side, THUMBNAIL_PX, side)
    flat = cells.mean(axis=(2, 4), dtype=np.float32).reshape(len(images), THUMBNAIL_PX**2)
    centred = flat - flat.mean(axis=1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-3)
