"""The labelled faces that checkpoints are evaluated on, with their classes matched by name."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fer_batch.data.clips import Clips, count_classes
from fer_batch.data.datasets import DATASET_CLASSES, load_datasets
from fer_batch.data.labels import SPLIT_SYNONYMS, normalize_label
from fer_batch.errors import ConfigError, InputError
from fer_batch.records import Record

SPLIT_NAMES = ("Training", "PublicTest", "PrivateTest", "train", "calibrate", "select", "val", "test")
DEFAULT_SPLITS = ("test", "select", "train")
"""The first of these splits that the data has is evaluated by default."""


@dataclass(frozen=True, kw_only=True)
class DataPart:
    """The share of one data set in an evaluation."""

    name: str
    path: str
    n: int
    left_out: dict[str, int]
    """Numbers of examples that were left out, by reason."""


@dataclass(frozen=True, kw_only=True)
class Examples(Record):
    """Labelled stills and sequences of one split of one or several data sets."""

    parts: list[Clips] = dataclasses.field(repr=False)
    """The examples of each data set. Their labels index the classes of the data set."""
    labels: np.ndarray = dataclasses.field(repr=False)
    """`(n,) int64`: index into `classes` for the examples of all parts in order."""
    classes: tuple[str, ...] = dataclasses.field(repr=False)
    indices: list[np.ndarray] = dataclasses.field(repr=False)
    """For each part `(N,) int64`: positions of its examples in the split of the data set, from 0."""
    split: str
    data: list[DataPart]
    left_out: dict[str, int]
    """Numbers of examples that were left out because their class is not among `classes`, by class."""

    @property
    def subjects(self) -> np.ndarray:
        """`(n,) str`: the subject of each example. Examples of unknown subjects have one subject each."""
        names = [
            f"{number} {subject}" if subject else f"{number}.{position}"
            for number, clips in enumerate(self.parts)
            for position, subject in enumerate(clips.subjects.tolist())
        ]
        return np.array(names, str)


def parse_split(name: str | None) -> str | None:
    """Return the project's name of a split that may have FER2013's name, in any case.

    Raises ConfigError for an unknown split.
    """
    if name is None:
        return None
    split = SPLIT_SYNONYMS.get(name.lower(), name.lower())
    if split not in (*SPLIT_SYNONYMS.values(), "calibrate"):
        raise ConfigError(f"--split must be one of {', '.join(SPLIT_NAMES)}, got {name!r}")
    return split


def load_examples(
    data: Sequence[tuple[str, str]],
    split: str | None,
    classes: Sequence[str],
    common_classes: bool = False,
) -> Examples:
    """Load the examples of a split of each data set.

    `split` None means the first of `DEFAULT_SPLITS` that the data has. Labels are matched by name to
    `classes`, which all checkpoints share. With `common_classes`, examples of other classes are left out, and
    classes that the data lacks are dropped. Otherwise only the contempt of data sets of emotions is left out.

    Raises InputError if a data set cannot be read, has no examples in the split, or has a class that is not
    among `classes`; with `common_classes` if fewer than two classes are common.
    """
    loaded = [_load_all_classes(name, path, classes) for name, path in data]
    if common_classes:
        classes = _select_common(classes, [clips for clips, _ in loaded])
    else:
        known = {normalize_label(name) for name in classes}
        loaded = [
            _drop_contempt(f"--data {name}={path}", name, clips, counts, known)
            for (name, path), (clips, counts) in zip(data, loaded, strict=True)
        ]
    if split is None:
        present = set().union(*(clips.splits.tolist() for clips, _ in loaded))
        split = next((name for name in DEFAULT_SPLITS if name in present), DEFAULT_SPLITS[0])
    index = {normalize_label(name): number for number, name in enumerate(classes)}
    parts, indices, labels, described = [], [], [], []
    left_out: Counter[str] = Counter()
    for (name, path), (clips, reasons) in zip(data, loaded, strict=True):
        in_split = clips.take(clips.splits == split)
        if not len(in_split):
            raise InputError(_describe_missing_split(f"--data {name}={path}", split, clips))
        numbers = np.array([index.get(normalize_label(name), -1) for name in in_split.classes], np.int64)
        kept = numbers[in_split.labels] >= 0
        left_out.update(count_classes(in_split.take(~kept)))
        parts.append(in_split.take(kept))
        indices.append(np.flatnonzero(kept))
        labels.append(numbers[in_split.labels[kept]])
        described.append(DataPart(name=name, path=path, n=int(kept.sum()), left_out=dict(reasons)))
    if not any(map(len, parts)):
        raise InputError(
            f"the split {split} has no examples of the common classes ({', '.join(classes)}): give another "
            "--split"
        )
    return Examples(
        parts=parts,
        labels=np.concatenate(labels),
        classes=tuple(classes),
        indices=indices,
        split=split,
        data=described,
        left_out=dict(left_out),
    )


def _load_all_classes(name: str, path: str, classes: Sequence[str]) -> tuple[Clips, dict[str, int]]:
    """Load a data set with all of its classes, and the numbers of examples left out by reason."""
    allowed = None  # the classes that occur
    if name in DATASET_CLASSES:
        allowed = tuple(dict.fromkeys((*DATASET_CLASSES[name], *map(normalize_label, classes))))
    return load_datasets([(name, path)], classes=allowed, for_training=False)


def _select_common(classes: Sequence[str], loaded: Sequence[Clips]) -> list[str]:
    """Return the classes that the data has; raises InputError if there are fewer than two."""
    occurring = {name for clips in loaded for name in count_classes(clips)}
    common = [name for name in classes if normalize_label(name) in occurring]
    if len(common) < 2:
        raise InputError(
            f"--common-classes needs two or more classes in common: the data has "
            f"{', '.join(sorted(occurring))}, and of these all checkpoints have {', '.join(common) or 'none'}"
        )
    return common


def _drop_contempt(
    option: str, name: str, clips: Clips, counts: dict[str, int], known: set[str]
) -> tuple[Clips, dict[str, int]]:
    """Drop the contempt of a data set of emotions unless it is `known`.

    Raises InputError for any other unknown class.
    """
    unknown = {label: count for label, count in count_classes(clips).items() if label not in known}
    contempt = unknown.pop("contempt", 0) if name in DATASET_CLASSES else 0
    if unknown:
        raise InputError(
            f"{option} has classes that not all checkpoints have: {', '.join(unknown)}; allowed are "
            f"{', '.join(sorted(known))}: rename them, leave them out, or give --common-classes"
        )
    if not contempt:
        return clips, counts
    kept = clips.labels != clips.classes.index("contempt")
    return clips.take(kept), {**counts, "contempt_left_out": contempt}


def _describe_missing_split(option: str, split: str, clips: Clips) -> str:
    counts = ", ".join(f"{name} ({n})" for name, n in sorted(Counter(clips.splits.tolist()).items()))
    return (
        f"{option} has no examples in the split {split}; it has {counts}: give one of these as --split, and "
        "evaluate data sets without a common split separately"
    )
