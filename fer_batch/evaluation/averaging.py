"""Views of a face whose predictions are averaged.

Ten crops follow Krizhevsky, Sutskever and Hinton (2012), "ImageNet classification with deep convolutional
neural networks", section 4.1.
"""

from collections.abc import Iterator

import numpy as np

AVERAGING = ("none", "flip", "ten-crop")
"""The crop alone; the crop and its mirror image, as in `analyze`; or the four corners and the centre, each
with its mirror image."""
CORNER_CROP_RATIO = 44 / 48
"""Side of one of the ten crops relative to the side of the face crop."""


def ten_crops(frames: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the ten views of `(M, S, S) uint8` grey crops, each with the same shape and type.

    The order is upper left, upper right, lower left, lower right and centre. Each view is scaled back to S
    bilinearly and followed by its mirror image.
    """
    side = frames.shape[1]
    cut_side = round(side * CORNER_CROP_RATIO)
    end, middle = side - cut_side, (side - cut_side) // 2
    scale = _interpolation_matrix(cut_side, side)
    for top, left in ((0, 0), (0, end), (end, 0), (end, end), (middle, middle)):
        cut = frames[:, top : top + cut_side, left : left + cut_side].astype(np.float32)
        view = np.rint(scale @ cut @ scale.T).astype(np.uint8)  # (M, S, S)
        yield view
        yield np.ascontiguousarray(view[:, :, ::-1])


def _interpolation_matrix(small: int, large: int) -> np.ndarray:
    """Return the `(large, small) float32` matrix that resizes by linear interpolation, with edge padding."""
    positions = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    below = np.minimum(positions.astype(np.int64), small - 2)
    fraction = positions - below
    weights = np.zeros((large, small), np.float32)
    weights[np.arange(large), below] = 1 - fraction
    weights[np.arange(large), below + 1] += fraction
    return weights
