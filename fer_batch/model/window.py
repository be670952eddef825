"""Select the sampled frames of a track that form the window around each of them."""

import numpy as np

SLOT_TOLERANCE = 0.6
"""Largest distance of a frame from its slot, as a fraction of the distance between slots."""


def build_windows(
    times: np.ndarray, rate_hz: float, length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Build a window for every frame of one track, resampled to the rate of the model's training.

    `times` is `(n,) float64`, increasing seconds. The window of a frame at t has up to `length` (odd) slots,
    at `t + k / rate_hz` for k from `-(length // 2)` to `length // 2`. A slot takes the nearest frame if it is
    within `SLOT_TOLERANCE`, and is left out otherwise.

    Returns `(n, length) int64` indices, left-aligned and filled with -1; `(n,) int64` lengths, 1 or more; and
    `(n,) int64`, the position of each frame in its own window.
    """
    times = np.asarray(times, np.float64)
    count, half = len(times), length // 2
    if not count:
        return np.zeros((0, length), np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
    slots = times[:, None] + (np.arange(length) - half) / rate_hz  # (n, length)
    after = np.clip(np.searchsorted(times, slots), 1, max(count - 1, 1))
    before = after - 1
    after = np.minimum(after, count - 1)
    nearest = np.where(slots - times[before] <= times[after] - slots, before, after)
    nearest[:, half] = np.arange(count)
    filled = np.abs(times[nearest] - slots) <= SLOT_TOLERANCE / rate_hz
    order = np.argsort(~filled, axis=1, kind="stable")
    indices = np.where(np.take_along_axis(filled, order, 1), np.take_along_axis(nearest, order, 1), -1)
    return indices, filled.sum(axis=1), filled[:, :half].sum(axis=1)
