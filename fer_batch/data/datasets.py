"""Labelled faces from the data sets that people have, as grey 48×48 clips in memory.

Everything is a clip: a still is a clip of one frame, a CK+48 sequence one of three.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_batch.data.ck48 import read_ck48
from fer_batch.data.fer2013 import read_fer2013
from fer_batch.data.folders import read_folder
from fer_batch.data.images import SIZE, Labelled
from fer_batch.data.labels import canonical, check_classes, held_out
from fer_batch.errors import InputError
from fer_batch.schema import EMOTIONS

READERS: dict[str, Callable[[str, Path, Counter[str]], list[Labelled]]] = {
    "fer2013": read_fer2013,
    "ck48": read_ck48,
    "folder": read_folder,
}
DATASETS = (*READERS, "clips")
"""The names that `--data NAME=PATH` takes. What "clips" names are videos: see `training.clips`."""
OF_EMOTIONS = {"fer2013": EMOTIONS, "ck48": (*EMOTIONS, "contempt")}
"""The classes that a data set may have; others may have any."""


@dataclass(frozen=True, kw_only=True)
class Clips:
    """Labelled sequences of face crops."""

    frames: np.ndarray
    """`(M, 48, 48) uint8`, grey, the frames of all clips in order."""
    starts: np.ndarray
    """`(N + 1,) int64`: clip i is `frames[starts[i]:starts[i + 1]]`."""
    labels: np.ndarray
    """`(N,) int64`, index into `classes`."""
    splits: np.ndarray
    """`(N,) str`: "train", "calibrate" (held out of Training, for the temperature), "select" (chooses the
    epoch) or "test" (never used in training)."""
    classes: tuple[str, ...]
    votes: np.ndarray
    """`(N, C) float32`: the share of annotators that chose each class; rows sum to 1, or to 0 where nobody
    voted for any of them."""
    subjects: np.ndarray
    """`(N,) str`: who is seen, "" where unknown."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, keep: np.ndarray) -> "Clips":
        """The clips at `keep`, a `(N,) bool` mask or indices."""
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
        )


def load_dataset(
    name: str, path: Path, *, classes: Sequence[str] | None = None, for_training: bool = True
) -> tuple[Clips, dict[str, int]]:
    """One data set; see `load_datasets`."""
    return load_datasets([(name, str(path))], classes=classes, for_training=for_training)


def load_datasets(
    data: Sequence[tuple[str, str]],
    *,
    classes: Sequence[str] | None = None,
    leave_out: Sequence[str] = (),
    for_training: bool = True,
) -> tuple[Clips, dict[str, int]]:
    """Data sets by name ("fer2013", "ck48" or "folder") and path, as one, and counts of what is amiss with
    them: "unreadable" images, those "without_class" folder, and what is said below. What is not there is not
    counted: any key may be asked for, and the values are above 0.

    `classes` are those of a model, by any of their names; by default they are the seven emotions where
    fer2013 or ck48 is among the data, then the other classes that occur, in order of their name. CK+48's
    contempt is left out ("contempt_left_out", in sequences) unless it is one of them. Examples of the classes
    `leave_out` are left out everywhere ("disgust_left_out" …).

    For training, in this order: where a data set has no selection split, a tenth of it becomes one; of
    Training, images that stand pixel-identical in another split ("twins_dropped") and blank ones
    ("blank_dropped") are dropped; and 1 in 25 of the rest becomes the split "calibrate". Both parts are
    chosen by hash of the image, or of the subject where it is known, so identical images and a person's
    images stay together. Images of Training that stand there again under another label stay, and are counted
    ("contradictory"). Otherwise nothing is dropped, no split invented, and what has no split is "train".

    Raises InputError where a data set is not there or not of that kind, more than half of it can't be read,
    a class is not allowed, `leave_out` names one that is neither there nor an emotion, or, for training,
    there is only one.
    """
    if not data:
        raise InputError("no data set is named; give --data NAME=PATH")
    counts: Counter[str] = Counter()
    without = {canonical(name) for name in leave_out}
    parts = [_read(name, path, classes, without, counts) for name, path in data]
    if classes is None:
        named = {
            row.label
            for (name, _), rows in zip(data, parts, strict=True)
            for row in rows
            if (name, row.label) != ("ck48", "contempt")
        }
        emotions = EMOTIONS if any(name in OF_EMOTIONS for name, _ in data) else ()
        classes = (*(e for e in emotions if e not in without), *sorted(named - set(emotions)))
    absent = {name for name in without if not counts[f"{name}_left_out"]} - set(OF_EMOTIONS["ck48"])
    if unknown := [name for name in leave_out if canonical(name) in absent]:
        raise InputError(
            f"--leave-out has {', '.join(unknown)}; the classes of the data are {', '.join(classes)}"
        )
    index = {canonical(name): number for number, name in enumerate(classes)}
    kept = [[row for row in rows if row.label in index] for rows in parts]
    if contempt := sum(map(len, parts)) - sum(map(len, kept)):
        counts["contempt_left_out"] += contempt
    if for_training:
        present = {row.label for rows in kept for row in rows}
        if len(present) < 2:
            where = ", ".join(f"--data {name}={path}" for name, path in data)
            raise InputError(
                f"{where}: there is only the class {', '.join(present)}; training takes two or more"
            )
        rows = _divide([row for rows in kept for row in _selected(rows)], counts)
    else:
        rows = [dataclasses.replace(r, split=r.split or "train") for rows in kept for r in rows]
    return _clips(rows, tuple(classes), index), counts


def concatenate(parts: Sequence[Clips]) -> Clips:
    """Several sets of clips of the same classes as one."""
    if len({p.classes for p in parts}) != 1:
        raise ValueError(f"clips of different classes: {[p.classes for p in parts]}")
    offsets = np.cumsum([0] + [len(p.frames) for p in parts])
    return Clips(
        frames=np.concatenate([p.frames for p in parts]),
        starts=np.concatenate(
            [p.starts[:-1] + o for p, o in zip(parts, offsets, strict=False)] + [offsets[-1:]]
        ),
        labels=np.concatenate([p.labels for p in parts]),
        splits=np.concatenate([p.splits for p in parts]),
        classes=parts[0].classes,
        votes=np.concatenate([p.votes for p in parts]),
        subjects=np.concatenate([p.subjects for p in parts]),
    )


def no_clips(classes: Sequence[str]) -> Clips:
    """Clips of which there are none."""
    return _clips([], tuple(classes), {})


def class_counts(clips: Clips) -> dict[str, int]:
    """How many clips each class has, in order of the classes, those that have some."""
    counted = np.bincount(clips.labels, minlength=len(clips.classes)).tolist()
    return {name: count for name, count in zip(clips.classes, counted, strict=True) if count}


def _read(
    name: str, given: str, classes: Sequence[str] | None, without: set[str], counts: Counter[str]
) -> list[Labelled]:
    """One data set as it is but for the classes that it shall be `without`, the others checked."""
    option, path = f"--data {name}={given}", Path(given)
    if name not in DATASETS:
        raise InputError(f"{option}: there is no data set {name!r}; allowed are {', '.join(DATASETS)}")
    if name not in READERS:
        raise InputError(f"{option}: these are videos, not images; allowed here are {', '.join(READERS)}")
    if not path.exists():
        raise InputError(f"{option}: there is no such file or folder")
    rows = READERS[name](option, path, counts)
    counts.update(f"{row.label}_left_out" for row in rows if row.label in without)
    rows = [row for row in rows if row.label not in without]
    if not rows:
        raise InputError(f"{option}: no labelled face images found there")
    found = {row.label for row in rows}
    if name in OF_EMOTIONS:
        listed = OF_EMOTIONS[name] if classes is None else tuple(classes)
        check_classes(option, found - set(OF_EMOTIONS[name][len(EMOTIONS) :]), listed)
    elif classes is not None:
        check_classes(option, found, classes)
    return rows


def _selected(rows: list[Labelled]) -> list[Labelled]:
    """A data set's rows, all with a split, "select" among them: 1 in 10 of Training where it has none."""
    rows = [dataclasses.replace(row, split=row.split or "train") for row in rows]
    if any(row.split == "select" for row in rows):
        return rows
    return _hold_out(rows, "select")


def _divide(rows: list[Labelled], counts: Counter[str]) -> list[Labelled]:
    """Training without what stands in other splits, blank images and the part for calibration."""
    rows = _without_twins(rows, counts)
    blank = [row.split == "train" and row.images.min() == row.images.max() for row in rows]
    if any(blank):
        counts["blank_dropped"] += sum(blank)
    rows = [row for row, b in zip(rows, blank, strict=True) if not b]
    labels: dict[str, set[str]] = {}
    training = [(_key(row.images), row.label) for row in rows if row.split == "train"]
    for key, label in training:
        labels.setdefault(key, set()).add(label)
    if contradictory := sum(len(labels[key]) > 1 for key, _ in training):
        counts["contradictory"] += contradictory
    return _without_twins(_hold_out(rows, "calibrate"), counts)


def _without_twins(rows: list[Labelled], counts: Counter[str]) -> list[Labelled]:
    elsewhere = {_key(image) for row in rows if row.split != "train" for image in row.images}
    kept = [
        row
        for row in rows
        if row.split != "train" or not any(_key(image) in elsewhere for image in row.images)
    ]
    if len(kept) < len(rows):
        counts["twins_dropped"] += len(rows) - len(kept)
    return kept


def _hold_out(rows: list[Labelled], split: str) -> list[Labelled]:
    """A part of Training becomes `split`, by subject where it is known, else by image."""
    keys = [row.subject or _key(row.images) for row in rows if row.split == "train"]
    chosen = iter(held_out(keys, split).tolist())
    return [
        dataclasses.replace(row, split=split) if row.split == "train" and next(chosen) else row
        for row in rows
    ]


def _key(image: np.ndarray) -> str:
    return hashlib.sha1(image.tobytes()).hexdigest()


def _clips(rows: list[Labelled], classes: tuple[str, ...], index: dict[str, int]) -> Clips:
    votes = np.zeros((len(rows), len(classes)), np.float32)
    for number, row in enumerate(rows):
        for label, count in (row.votes or {}).items():
            if label in index:
                votes[number, index[label]] = count
    sums = votes.sum(axis=1, keepdims=True)
    return Clips(
        frames=np.concatenate([row.images for row in rows]) if rows else np.zeros((0, SIZE, SIZE), np.uint8),
        starts=np.cumsum([0] + [len(row.images) for row in rows]).astype(np.int64),
        labels=np.array([index[row.label] for row in rows], np.int64),
        splits=np.array([row.split for row in rows], str),
        classes=classes,
        votes=np.divide(votes, sums, out=votes, where=sums > 0),
        subjects=np.array([row.subject for row in rows], str),
    )
