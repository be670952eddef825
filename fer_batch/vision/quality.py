"""Measure how well a face can be seen: sharpness and pose."""

import numpy as np


def measure_sharpness(crops: np.ndarray) -> np.ndarray:
    """Return the variance of the Laplacian of `(n, h, w) uint8` grey crops, `(n,) float32`.

    Blank and blurred crops have values near 0; there is no upper limit. After Pech-Pacheco et al. 2000,
    "Diatom autofocusing in brightfield microscopy".
    """
    grey = crops.astype(np.float32)
    centre = grey[:, 1:-1, 1:-1]
    laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] - 4 * centre
    return laplacian.var(axis=(1, 2)) if len(crops) else np.zeros(0, np.float32)


def estimate_roll_deg(landmarks: np.ndarray) -> np.ndarray:
    """Return the angle of the line through the eyes of `(n, 5, 2)` landmarks, `(n,) float32`.

    Degrees from -180 to 180, clockwise in the picture.
    """
    line = landmarks[:, 1] - landmarks[:, 0]
    return np.degrees(np.arctan2(line[:, 1], line[:, 0])).astype(np.float32)


def estimate_yaw(landmarks: np.ndarray) -> np.ndarray:
    """Return the distance of the nose from the middle of the eyes, along their line, `(n,) float32`.

    `landmarks` is `(n, 5, 2)`. The unit is half the distance between the eyes: 0 is a frontal face, -1 and 1
    have the nose under the left or right eye of the picture. Values are clipped to -3…3.
    """
    line = landmarks[:, 1] - landmarks[:, 0]
    middle = (landmarks[:, 0] + landmarks[:, 1]) / 2
    squared = np.maximum((line**2).sum(axis=1), 1e-9)
    along = ((landmarks[:, 2] - middle) * line).sum(axis=1)
    return np.clip(2 * along / squared, -3, 3).astype(np.float32)
