"""How good a look at a face is: sharpness and pose."""

import numpy as np


def measure_sharpness(crops: np.ndarray) -> np.ndarray:
    """`(n, h, w) uint8` grey crops to `(n,) float32`: variance of the Laplacian, 0 (blank, blurred) upwards.

    After Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy".
    """
    grey = crops.astype(np.float32)
    centre = grey[:, 1:-1, 1:-1]
    laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] - 4 * centre
    return laplacian.var(axis=(1, 2)) if len(crops) else np.zeros(0, np.float32)


def estimate_roll_deg(landmarks: np.ndarray) -> np.ndarray:
    """`(n, 5, 2)` landmarks to `(n,) float32` degrees, -180 to 180: the line of the eyes, clockwise in the
    picture.
    """
    line = landmarks[:, 1] - landmarks[:, 0]
    return np.degrees(np.arctan2(line[:, 1], line[:, 0])).astype(np.float32)


def estimate_yaw(landmarks: np.ndarray) -> np.ndarray:
    """`(n, 5, 2)` landmarks to `(n,) float32`: how far the nose stands off the middle of the eyes, along
    their line.

    In units of half the distance of the eyes: 0 is frontal, -1 and 1 are the nose under the left or the
    right eye of the picture; clipped to -3…3.
    """
    line = landmarks[:, 1] - landmarks[:, 0]
    middle = (landmarks[:, 0] + landmarks[:, 1]) / 2
    squared = np.maximum((line**2).sum(axis=1), 1e-9)
    along = ((landmarks[:, 2] - middle) * line).sum(axis=1)
    return np.clip(2 * along / squared, -3, 3).astype(np.float32)
