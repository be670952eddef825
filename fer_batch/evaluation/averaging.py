"""Ways to look at a face more than once: the mean over its views is the answer.

Ten crops: Krizhevsky, Sutskever, Hinton 2012, "ImageNet classification with deep convolutional neural
networks", section 4.1.
"""

from collections.abc import Iterator

import numpy as np

AVERAGING = ("none", "flip", "ten-crop")
"""The crop alone; with its mirror image, as `analyze` does; four corners and the centre, and their mirror
images."""
PART = 44 / 48
"""Side of one of ten crops, as a share of the side."""


def ten_crops(frames: np.ndarray) -> Iterator[np.ndarray]:
    """The ten views of `(M, S, S) uint8` grey crops, each of the same shape and type: upper left, upper
    right, lower left, lower right and centre, scaled back to S bilinearly, each followed by its mirror image.
    """
    side = frames.shape[1]
    part = round(side * PART)
    end, middle = side - part, (side - part) // 2
    scale = _stretch(part, side)
    for top, left in ((0, 0), (0, end), (end, 0), (end, end), (middle, middle)):
        cut = frames[:, top : top + part, left : left + part].astype(np.float32)  # (M, part, part)
        view = np.rint(scale @ cut @ scale.T).astype(np.uint8)  # (M, S, S)
        yield view
        yield np.ascontiguousarray(view[:, :, ::-1])


def _stretch(small: int, large: int) -> np.ndarray:
    """`(large, small) float32`: what makes `small` values into `large` by linear interpolation, the ends
    repeated.
    """
    places = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    below = np.minimum(places.astype(np.int64), small - 2)
    share = places - below
    weights = np.zeros((large, small), np.float32)
    weights[np.arange(large), below] = 1 - share
    weights[np.arange(large), below + 1] += share
    return weights
