"""Find dissolves: gradual changes from one shot to the next, which no single step between frames shows."""

from collections.abc import Sequence

import numpy as np

from fer_batch.video.changes import select_region

MAX_DISSOLVE_S = 2.5
"""Longest dissolve that is found."""
FRAMES_PER_S = 5.0
"""Frames of a video that are compared; of more, the first one of each interval."""
MIN_FRAMES = 4
"""Fewest frames that show a dissolve: one before it, one in it, and two behind it."""
MAX_CORRELATION = 0.6
"""Largest correlation of the pictures before and behind a dissolve."""
MAX_RESIDUAL = 0.2
"""Largest part of a frame that is no blend, as a share of the change. Motion is not linear: it has more."""
MIN_ADVANCE = 0.4
"""Least growth of the new picture's weight from one frame to the next, as a share of the mean growth."""
MIN_CHANGE = 10.0
"""Least change in grey levels (root mean square)."""
MIN_LASTING = 0.8
"""Least weight of the new picture in the frame behind a dissolve. After a flash, the old picture returns."""
MAX_CONTRAST_RATIO = 1.35
"""Largest ratio of the contrasts of the two pictures. A fade to a dark or bright picture has more."""


def find_dissolve(points: Sequence[np.ndarray], region: Sequence[float]) -> tuple[int, int] | None:
    """Return the last frame before a dissolve that has just ended, and the middle of the dissolve.

    `points` are the `FrameChanges.points` of successive sampled frames, of which the last one is behind the
    dissolve. `region` is left, top, right and bottom, as shares of the picture. The middle is the first frame
    in which the new picture has half the weight. None if there is no dissolve.

    In a dissolve, each frame is a blend of the pictures before and behind it. The weight of the new one grows
    steadily, and the two have little in common.
    """
    if len(points) < MIN_FRAMES:
        return None
    frames = select_region(np.stack(points), region).reshape(len(points), -1).astype(np.float32)
    end = len(frames) - 2
    contrasts = frames - frames.mean(axis=1, keepdims=True)
    deviations = np.sqrt((contrasts * contrasts).mean(axis=1)) + 1e-6
    correlations = contrasts @ contrasts[end] / (frames.shape[1] * deviations * deviations[end])
    ratios = np.maximum(deviations / deviations[end], deviations[end] / deviations)
    is_other = (correlations <= MAX_CORRELATION) & (ratios <= MAX_CONTRAST_RATIO)
    for first in np.flatnonzero(is_other[: end - 1]).tolist():
        change = frames[end] - frames[first]
        energy = float(change @ change)
        if energy < MIN_CHANGE**2 * len(change):
            continue
        shifts = frames[first + 1 :] - frames[first]
        weights = shifts @ change / energy
        inside = weights[:-2]
        rest = shifts[:-2] - inside[:, None] * change
        is_blend = (rest * rest).sum(axis=1).max() <= MAX_RESIDUAL * energy
        steps = np.diff(inside, prepend=0, append=1)
        is_steady = steps.min() >= MIN_ADVANCE * steps.mean()
        if is_blend and is_steady and weights[-1] >= MIN_LASTING:
            return first, first + 1 + int((weights >= 0.5).argmax())
    return None
