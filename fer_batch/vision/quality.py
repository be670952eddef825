"""Measure how well a face can be seen: sharpness and pose."""

import numpy as np

NOSE_DEPTH = 1.17
"""How far the tip of the nose is before the eyes, in halves of the distance between the eyes.

It is that of the mean face of OpenFace's point distribution model (Baltrušaitis et al. 2018, "OpenFace 2.0:
Facial Behavior Analysis Toolkit"): 38.4 mm with eyes 65.7 mm apart."""
NOSE_DROP = 1.14
"""How far the tip of the nose is below the eyes of a frontal face, in the same unit.

It is that of the reference landmarks of ArcFace (Deng et al. 2019, "ArcFace: Additive Angular Margin Loss for
Deep Face Recognition"), and the median of 244 photos of faces in which the detector found landmarks."""
MIN_DEPTH = 0.5
"""Least depth of the nose from which yaw is estimated: that of a head that is lowered by 28 degrees.

With less depth, small errors of the landmarks would look like large turns."""


def measure_sharpness(crops: np.ndarray) -> np.ndarray:
    """Return the variance of the Laplacian of `(n, h, w) uint8` grey crops, `(n,) float32`.

    Blank and blurred crops have values near 0; there is no upper limit. After Pech-Pacheco et al. 2000,
    "Diatom autofocusing in brightfield microscopy".
    """
    grey = crops.astype(np.float32)
    centre = grey[:, 1:-1, 1:-1]
    laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] - 4 * centre
    return laplacian.var(axis=(1, 2)) if len(crops) else np.zeros(0, np.float32)


def estimate_pose_deg(landmarks: np.ndarray) -> np.ndarray:
    """Estimate roll, yaw and pitch of heads from `(n, 5, 2)` landmarks, `(n, 3) float32` in degrees.

    Roll is the angle of the line through the eyes, clockwise in the picture, from -180 to 180. Yaw is the
    turn to the right of the picture (positive) or to its left, from -90 to 90. Pitch is positive for a raised
    head and negative for a lowered one. A head that looks into the camera has 0, 0 and 0.

    Yaw and pitch follow from the place of the nose's tip relative to the eyes. They are exact for a head of
    mean shape that is raised and then turned, and is seen from a distance (scaled orthographic projection).
    Corners of the mouth are not used, because they move with the expression. If the points of heads and the
    landmarks deviate by 2 and 1 mm (standard deviations), the mean error is 4 degrees, and 95 % of the errors
    are below 11 degrees, for turns of up to 45 and pitches of up to 25 degrees. The yaw of heads that are
    lowered by more than 28 degrees is too small, and no head is lowered by more than 46.
    """
    line = landmarks[:, 1] - landmarks[:, 0]
    nose = landmarks[:, 2] - (landmarks[:, 0] + landmarks[:, 1]) / 2
    squared = np.maximum((line**2).sum(axis=1), 1e-9)
    # The eyes are `cos(yaw)` apart, so that both are `1 / cos(yaw)` too large.
    right = np.clip(2 * (nose * line).sum(axis=1) / squared, -1e3, 1e3)
    down = np.clip(2 * (line[:, 0] * nose[:, 1] - line[:, 1] * nose[:, 0]) / squared, -1e3, 1e3)
    # Turns keep the distance of the nose's tip from the middle of the eyes. With c = cos²(yaw), this is
    # down² c² - (distance² + right² + down²) c + distance² = 0, of which the smaller root is meant.
    distance_2 = NOSE_DEPTH**2 + NOSE_DROP**2
    total = distance_2 + right**2 + down**2
    root = np.sqrt(np.maximum(total**2 - 4 * distance_2 * down**2, 0))
    drop = down * np.sqrt(2 * distance_2 / (total + root))
    depth = np.sqrt(np.maximum(distance_2 - drop**2, 0))
    roll = np.arctan2(line[:, 1], line[:, 0])
    yaw = np.arctan2(right, np.maximum(depth, MIN_DEPTH))
    pitch = np.arctan2(NOSE_DROP, NOSE_DEPTH) - np.arctan2(drop, depth)
    return np.degrees(np.stack([roll, yaw, pitch], axis=1)).astype(np.float32)
