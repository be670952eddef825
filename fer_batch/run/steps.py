"""The duration of each sampled frame: the one definition of seconds in the tables."""

import numpy as np

MAX_GAP_STEPS = 2.5
"""Longest gap between sampled frames, in local typical steps, that is no pause. A video of 7 frames/s that is
sampled at 5/s has steps of one and of two frames."""
NEAREST_GAPS = 5
"""Number of gaps whose median is typical for the middle one."""


def measure_steps(
    video: np.ndarray, times_s: np.ndarray, frame_index: np.ndarray, end_s: np.ndarray, frames: np.ndarray
) -> np.ndarray:
    """Return how long each sampled frame lasts, `(n,) float64` seconds.

    `video`, `times_s` and `frame_index`, `(n,)` each, are the number of a sampled frame's video, its time and
    its position among all frames of the video; sampled frames are in order. `end_s` and `frames`,
    `(videos,)`, are the end of the part of each video that was read and the number of all its frames.

    A sampled frame lasts until the next one. If that gap is longer than `MAX_GAP_STEPS` typical gaps, it is a
    pause: then only it and the frames between it and the pause last, each as long as is typical. A section
    with a frame every two seconds has its own typical gap, so it counts fully. Typical is the median of the
    `NEAREST_GAPS` gaps that are nearest in order (the lower median of an even number). The last sampled frame
    of a video lasts likewise, at most until `end_s`, and one without any other lasts until `end_s`.
    """
    gaps_s = np.diff(times_s)
    # Of frames at equal times, only the last one lasts.
    gaps = np.flatnonzero((np.diff(video) == 0) & (gaps_s > 0))
    gaps_s, counts, gap_video = gaps_s[gaps], np.maximum(np.diff(frame_index)[gaps], 1), video[gaps]
    longest_s = MAX_GAP_STEPS * _find_typical(gap_video, gaps_s)
    frame_s = _find_typical(gap_video, gaps_s / counts)
    steps_s = np.zeros(len(times_s))
    steps_s[gaps] = np.where(gaps_s > longest_s, np.minimum(counts * frame_s, longest_s), gaps_s)
    last = np.flatnonzero(np.diff(video, append=-1))
    last_gap = np.searchsorted(gap_video, video[last], "right") - 1
    has_gap = np.isin(video[last], gap_video)
    rest_s = end_s[video[last]] - times_s[last]
    counts = np.maximum(frames[video[last]] - frame_index[last], 1)[has_gap]
    last_gap = last_gap[has_gap]
    rest_s[has_gap] = np.minimum(rest_s[has_gap], np.minimum(counts * frame_s[last_gap], longest_s[last_gap]))
    steps_s[last] = np.maximum(rest_s, 0)
    return steps_s


def _find_typical(video: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the median of the values around each value of its video, `(g,) float64`."""
    numbers = np.arange(len(values))
    first, after = np.searchsorted(video, video, "left"), np.searchsorted(video, video, "right")
    start = np.maximum(np.minimum(numbers - NEAREST_GAPS // 2, after - NEAREST_GAPS), first)
    window = start[:, None] + np.arange(NEAREST_GAPS)
    is_inside = window < after[:, None]
    nearest = np.sort(np.where(is_inside, values[np.minimum(window, len(values) - 1)], np.inf), axis=1)
    typical: np.ndarray = nearest[numbers, (is_inside.sum(axis=1) - 1) // 2]
    return typical
