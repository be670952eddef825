"""The duration of each sampled frame: the one definition of seconds in the tables."""

import numpy as np

MAX_GAP_STEPS = 2.5
"""Longest gap between sampled frames, in local typical steps, that is no pause. A video of 7 frames/s that is
sampled at 5/s has steps of one and of two frames."""
NEAREST_GAPS = 5
"""Number of gaps whose median is the local typical step."""


def measure_steps(video: np.ndarray, times_s: np.ndarray, end_s: np.ndarray) -> np.ndarray:
    """Return how long each sampled frame lasts, `(n,) float64` seconds.

    `video` `(n,) int64` numbers the video of each frame, `times_s` `(n,) float64` is its time; frames are in
    order. `end_s` `(videos,) float64` is the end of what was read of each video.

    A frame lasts until the next one. If that gap is longer than `MAX_GAP_STEPS` local typical steps, it is a
    pause, and the frame lasts one typical step. A section with a frame every two seconds has its own typical
    step, so it counts fully. The typical step is the median of the `NEAREST_GAPS` gaps that are nearest in
    order (the lower median of an even number). For the last frame of a video, `end_s` is in place of the next
    one. A frame without any other lasts until `end_s`.
    """
    if not len(times_s):
        return np.zeros(0)
    gaps_s = np.diff(times_s)
    # Of frames at equal times, only the last one lasts.
    gaps = np.flatnonzero((np.diff(video) == 0) & (gaps_s > 0))
    gaps_s = gaps_s[gaps]
    typical_s = _find_typical(video[gaps], gaps_s)
    last_typical_s = np.full(len(end_s), np.inf)
    last_typical_s[video[gaps]] = typical_s  # of a video's gaps, the last one remains
    last = np.flatnonzero(np.diff(video, append=-1))
    steps_s = np.zeros(len(times_s))
    steps_s[gaps] = _limit_gaps(gaps_s, typical_s)
    steps_s[last] = _limit_gaps(
        np.maximum(end_s[video[last]] - times_s[last], 0), last_typical_s[video[last]]
    )
    return steps_s


def _limit_gaps(gaps_s: np.ndarray, typical_s: np.ndarray) -> np.ndarray:
    return np.where(gaps_s > MAX_GAP_STEPS * typical_s, typical_s, gaps_s)


def _find_typical(video: np.ndarray, gaps_s: np.ndarray) -> np.ndarray:
    """Return the median of the gaps around each gap in its video, `(g,) float64`."""
    numbers = np.arange(len(gaps_s))
    first, after = np.searchsorted(video, video, "left"), np.searchsorted(video, video, "right")
    start = np.maximum(np.minimum(numbers - NEAREST_GAPS // 2, after - NEAREST_GAPS), first)
    window = start[:, None] + np.arange(NEAREST_GAPS)
    is_inside = window < after[:, None]
    nearest = np.sort(np.where(is_inside, gaps_s[np.minimum(window, len(gaps_s) - 1)], np.inf), axis=1)
    typical: np.ndarray = nearest[numbers, (is_inside.sum(axis=1) - 1) // 2]
    return typical
