"""Find abrupt changes of a picture, or of a part of it, among the frames between two sampled ones."""

from collections.abc import Sequence

import numpy as np

from fer_batch.video.changes import TILE, FrameChanges, measure_changes, select_region

NOISE = 1.0
"""Grey levels that are added to changes, as smaller ones are noise of the camera and of the encoder."""
MIN_OTHER_STEPS, LEAST_OTHER_STEPS = 5, 2
"""Steps that a step is compared with, and the fewest at the beginning of a video."""
CUT_MIN_JUMP = 3.5
"""Least jump of the whole picture at a cut."""
CUT_MIN_CHANGE, CUT_MIN_SHARE = 6.0, 0.25
"""Grey levels by which tiles change at a cut, and the least share of such tiles."""
WHOLE = (0.0, 0.0, 1.0, 1.0)
"""The whole picture as a region: left, top, right and bottom as shares of its width and height."""


def measure_jump(frames: Sequence[FrameChanges], first: int, region: Sequence[float] = WHOLE) -> float | None:
    """Return the largest step from one decoded frame to the next, relative to the mean of the other steps.

    `frames` are sampled frames in order of time. The step is sought between the frame before `first` and the
    last one. Others are taken from there and from earlier frames, at least `MIN_OTHER_STEPS` if there are so
    many. A cut is one step of 4 or more. Motion spreads over all steps, and static parts of the picture add
    nothing to any. Light that flashes leaves no lasting change, which limits the step. None if there are too
    few steps to compare.
    """
    if first < 1:
        return None
    steps = np.concatenate([_mean_in(changes.steps, region) for changes in frames[first:]])
    if not len(steps):
        return None
    largest = int(steps.argmax())
    others = np.delete(steps, largest)
    for earlier in range(first - 1, -1, -1):
        others = np.concatenate([_mean_in(frames[earlier].steps, region), others])
        if len(others) >= MIN_OTHER_STEPS:
            break
    if len(others) < LEAST_OTHER_STEPS:
        return None
    old, new = frames[first - 1].points, frames[-1].points
    lasting = np.inf
    if old.shape == new.shape:
        lasting = float(_mean_in(measure_changes(old[None], new[None]), region, TILE)[0])
    return (min(float(steps[largest]), lasting) + NOISE) / (float(others.mean()) + NOISE)


def is_shot_cut(frames: Sequence[FrameChanges]) -> bool:
    """Return whether a shot begins between the last two sampled frames.

    Much of the picture changes in one step. An object that comes or goes in a still picture is no cut.
    """
    if len(frames) < 2 or not len(frames[-1].steps):
        return False
    changed = np.count_nonzero(frames[-1].steps.max(axis=0) >= CUT_MIN_CHANGE)
    if changed < CUT_MIN_SHARE * frames[-1].steps[0].size:
        return False
    jump = measure_jump(frames, len(frames) - 1)
    return jump is not None and jump >= CUT_MIN_JUMP


def _mean_in(images: np.ndarray, region: Sequence[float], scale: int = 1) -> np.ndarray:
    """Return the mean of each of `(n, rows, columns)` images in a region, whole tiles of it."""
    part = select_region(images, region, scale)
    return part.mean(axis=(1, 2), dtype=np.float64)
