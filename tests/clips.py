"""Clips in memory for the tests of data, training and evaluation."""

from collections.abc import Sequence

import numpy as np

from fer_batch.data.clips import Clips


def make_clips(
    frames: np.ndarray,
    lengths: Sequence[int],
    *,
    classes: Sequence[str],
    labels: Sequence[int] | np.ndarray | None = None,
    split: str = "train",
    subjects: Sequence[str] | None = None,
    votes: np.ndarray | None = None,
    datasets: Sequence[str] | None = None,
) -> Clips:
    """Make clips of `(M, 48, 48) uint8` frames, by default of the first class, without other facts."""
    count = len(lengths)
    return Clips(
        frames=frames,
        starts=np.cumsum([0, *lengths]).astype(np.int64),
        labels=np.array([0] * count if labels is None else labels, np.int64),
        splits=np.full(count, split),
        classes=tuple(classes),
        votes=np.zeros((count, len(classes)), np.float32) if votes is None else votes.astype(np.float32),
        subjects=np.array([""] * count if subjects is None else subjects, str),
        datasets=np.array([""] * count if datasets is None else datasets, str),
    )
