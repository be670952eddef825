"""The overlap of boxes."""

import numpy as np


def compute_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the `(n, m)` intersection over union of `(n, 4)` and `(m, 4)` xyxy boxes; 0 for empty boxes."""
    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)), np.result_type(a, b))
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    common = _compute_areas(sides)
    area_a, area_b = (_compute_areas(boxes[:, 2:] - boxes[:, :2]) for boxes in (a, b))
    union = area_a[:, None] + area_b[None] - common
    return np.where(union > 0, common / np.where(union > 0, union, 1), 0)


def _compute_areas(sides: np.ndarray) -> np.ndarray:
    """Return the areas of boxes with `sides` `(..., 2)`; 0 where a side is negative."""
    sides = np.maximum(sides, 0)
    return sides[..., 0] * sides[..., 1]
