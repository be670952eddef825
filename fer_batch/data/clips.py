"""Labelled clips in memory: arrays of grey 48×48 face crops, with labels and splits.

Every example is a clip. A still is a clip of one frame; a sequence of CK+48 is a clip of three.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fer_batch.config import CROP_SIZE_PX
from fer_batch.data.images import LabelledExample
from fer_batch.data.labels import normalize_label


@dataclass(frozen=True, kw_only=True)
class Clips:
    """Labelled clips of face crops."""

    frames: np.ndarray
    """`(M, 48, 48) uint8`, grey: the frames of all clips, in order."""
    starts: np.ndarray
    """`(N + 1,) int64`: clip i is `frames[starts[i]:starts[i + 1]]`."""
    labels: np.ndarray
    """`(N,) int64`, index into `classes`."""
    splits: np.ndarray
    """`(N,) str`: "train", "calibrate" (held out of training, fits the temperature), "select" (chooses the
    epoch) or "test" (not used in training)."""
    classes: tuple[str, ...]
    votes: np.ndarray
    """`(N, C) float32`: share of annotators that chose each class. Rows sum to 1, or to 0 without votes."""
    subjects: np.ndarray
    """`(N,) str`: the person in the clip, "" if unknown."""
    datasets: np.ndarray
    """`(N,) str`: name of the clip's data set, as `--data NAME=PATH` gives it."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, keep: np.ndarray) -> "Clips":
        """Return the clips at `keep`, a `(N,) bool` mask or indices."""
        index = np.flatnonzero(keep) if keep.dtype == bool else keep
        lengths = np.diff(self.starts)[index]
        frames = [np.arange(self.starts[i], self.starts[i + 1]) for i in index]
        return Clips(
            frames=self.frames[np.concatenate(frames)] if frames else self.frames[:0],
            starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            labels=self.labels[index],
            splits=self.splits[index],
            classes=self.classes,
            votes=self.votes[index],
            subjects=self.subjects[index],
            datasets=self.datasets[index],
        )


def stack_examples(rows: Sequence[LabelledExample], classes: Sequence[str]) -> Clips:
    """Stack examples, whose labels must be among `classes`, into one set of clips."""
    index = {normalize_label(name): number for number, name in enumerate(classes)}
    votes = np.zeros((len(rows), len(classes)), np.float32)
    for number, row in enumerate(rows):
        for label, count in (row.votes or {}).items():
            if label in index:
                votes[number, index[label]] = count
    sums = votes.sum(axis=1, keepdims=True)
    frames = [row.images for row in rows] or [np.zeros((0, CROP_SIZE_PX, CROP_SIZE_PX), np.uint8)]
    return Clips(
        frames=np.concatenate(frames),
        starts=np.cumsum([0] + [len(row.images) for row in rows]).astype(np.int64),
        labels=np.array([index[row.label] for row in rows], np.int64),
        splits=np.array([row.split for row in rows], str),
        classes=tuple(classes),
        votes=np.divide(votes, sums, out=votes, where=sums > 0),
        subjects=np.array([row.subject for row in rows], str),
        datasets=np.array([row.dataset for row in rows], str),
    )


def concatenate_clips(parts: Sequence[Clips]) -> Clips:
    """Concatenate several sets of clips; raises ValueError if their classes differ."""
    if len({p.classes for p in parts}) != 1:
        raise ValueError(f"clips of different classes: {[p.classes for p in parts]}")
    return Clips(
        frames=np.concatenate([p.frames for p in parts]),
        starts=np.cumsum(np.concatenate([[0], *(np.diff(p.starts) for p in parts)])).astype(np.int64),
        labels=np.concatenate([p.labels for p in parts]),
        splits=np.concatenate([p.splits for p in parts]),
        classes=parts[0].classes,
        votes=np.concatenate([p.votes for p in parts]),
        subjects=np.concatenate([p.subjects for p in parts]),
        datasets=np.concatenate([p.datasets for p in parts]),
    )


def empty_clips(classes: Sequence[str]) -> Clips:
    """Return a set of no clips."""
    return stack_examples([], classes)


def count_classes(clips: Clips) -> dict[str, int]:
    """Count the clips of each class, in order of the classes; classes without clips are left out."""
    counts = np.bincount(clips.labels, minlength=len(clips.classes)).tolist()
    return {name: count for name, count in zip(clips.classes, counts, strict=True) if count}
