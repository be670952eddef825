"""Which moments of a track stand in each moment's window."""

import numpy as np

PLACE_TOLERANCE = 0.6
"""How far from a place of the window a moment may be and stand there, as a share of the places' distance."""


def build_windows(
    times: np.ndarray, rate_hz: float, length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A window for every moment of one track, resampled to the rate that the model was trained at.

    `times` is `(n,) float64`, seconds, rising. The window of a moment at t has up to `length` (odd) places,
    at `t + k / rate_hz` for k from `-(length // 2)` to `length // 2`; a place holds the moment nearest to
    it, if there is one within 0.6 of a step, and is left out otherwise. Returns `(n, length) int64`
    indices, left-aligned, the rest -1; `(n,) int64` lengths, 1 or more; and `(n,) int64`, where in its
    window each moment itself stands.
    """
    times = np.asarray(times, np.float64)
    count, half = len(times), length // 2
    if not count:
        return np.zeros((0, length), np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
    places = times[:, None] + (np.arange(length) - half) / rate_hz  # (n, length)
    after = np.clip(np.searchsorted(times, places), 1, max(count - 1, 1))
    before = after - 1
    after = np.minimum(after, count - 1)
    nearest = np.where(places - times[before] <= times[after] - places, before, after)
    nearest[:, half] = np.arange(count)
    held = np.abs(times[nearest] - places) <= PLACE_TOLERANCE / rate_hz
    order = np.argsort(~held, axis=1, kind="stable")
    indices = np.where(np.take_along_axis(held, order, 1), np.take_along_axis(nearest, order, 1), -1)
    return indices, held.sum(axis=1), held[:, :half].sum(axis=1)
