"""The labelled faces that checkpoints are tried on, their classes matched by name."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_batch.data.clips import Clips, count_classes
from fer_batch.data.datasets import DATASET_CLASSES, load_dataset
from fer_batch.data.labels import SPLIT_SYNONYMS, normalize_label
from fer_batch.errors import ConfigError, InputError

SPLIT_NAMES = ("Training", "PublicTest", "PrivateTest", "train", "calibrate", "select", "val", "test")
BY_DEFAULT = ("test", "select", "train")


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What checkpoints are to be tried on."""

    parts: list[Clips]
    """Those of the split, of each data set; their labels are in classes of their own."""
    labels: np.ndarray
    """`(n,) int64`, index into `classes`, of all parts in order."""
    classes: tuple[str, ...]
    places: list[np.ndarray]
    """For each part `(N,) int64`: which clips of its split, from 0, these are."""
    split: str
    data: list[dict[str, Any]]
    """Of each data set `name`, `path`, `n`, and `left_out` (`{reason: count}`)."""
    left_out: dict[str, int]
    """How many examples of the split each class had that is not among `classes`."""

    @property
    def subjects(self) -> np.ndarray:
        """`(n,) str`: who is seen; everyone is somebody else where the data does not say."""
        names = [
            f"{number} {subject}" if subject else f"{number}.{place}"
            for number, clips in enumerate(self.parts)
            for place, subject in enumerate(clips.subjects.tolist())
        ]
        return np.array(names, str)


def split_name(given: str | None) -> str | None:
    """A split's name as the data sets have it, from FER2013's or its own, in any case; raises ConfigError."""
    if given is None:
        return None
    name = SPLIT_SYNONYMS.get(given.lower(), given.lower())
    if name not in (*SPLIT_SYNONYMS.values(), "calibrate"):
        raise ConfigError(f"--split is {given}; allowed is {', '.join(SPLIT_NAMES)}")
    return name


def load_examples(
    data: Sequence[tuple[str, str]],
    split: str | None,
    classes: Sequence[str],
    common_classes: bool = False,
) -> Examples:
    """The clips of `split` of each data set, None for the first of `BY_DEFAULT` that occurs; labels are
    matched by name to the `classes` that all checkpoints have.

    With `common_classes` the classes are those of them that the data has too, in the same order, and
    examples of others are left out. Without it they are `classes`, and only CK+48's contempt is left out.

    Raises InputError where a data set can't be read, has nothing in the split, or has a class that is not
    among `classes`; with `common_classes` where fewer than two are in common.
    """
    loaded = [_load(name, path, classes) for name, path in data]
    known = {normalize_label(name) for name in classes}
    if common_classes:
        has = {name for clips, _ in loaded for name in count_classes(clips)}
        classes = [name for name in classes if normalize_label(name) in has]
        if len(classes) < 2:
            raise InputError(
                f"--common-classes takes two or more, and of the data's ({', '.join(sorted(has))}) the "
                f"checkpoint, or all of several, has {', '.join(classes) or 'none'}"
            )
    else:
        loaded = [
            _without_foreign(f"--data {name}={path}", name, *part, known)
            for (name, path), part in zip(data, loaded, strict=True)
        ]
    if split is None:
        there = set().union(*(clips.splits.tolist() for clips, _ in loaded))
        split = next((s for s in BY_DEFAULT if s in there), BY_DEFAULT[0])
    index = {normalize_label(name): number for number, name in enumerate(classes)}
    parts, places, labels, said = [], [], [], []
    left_out: Counter[str] = Counter()
    for (name, path), (clips, reasons) in zip(data, loaded, strict=True):
        chosen = clips.take(clips.splits == split)
        if not len(chosen):
            has_splits = Counter(clips.splits.tolist())
            raise InputError(
                f"--data {name}={path} has nothing in the split {split}; it has "
                f"{', '.join(f'{s} ({n})' for s, n in sorted(has_splits.items()))}: name one of these as "
                "--split, and evaluate data sets without a split in common one by one"
            )
        numbers = np.array([index.get(normalize_label(name), -1) for name in chosen.classes], np.int64)
        kept = numbers[chosen.labels] >= 0
        left_out.update(count_classes(chosen.take(~kept)))
        parts.append(chosen.take(kept))
        places.append(np.flatnonzero(kept))
        labels.append(numbers[chosen.labels[kept]])
        said.append({"name": name, "path": path, "n": int(kept.sum()), "left_out": dict(reasons)})
    if not any(map(len, parts)):
        raise InputError(
            f"the split {split} has nothing of the classes in common ({', '.join(classes)}): name another "
            "--split"
        )
    return Examples(
        parts=parts,
        labels=np.concatenate(labels),
        classes=tuple(classes),
        places=places,
        split=split,
        data=said,
        left_out=dict(left_out),
    )


def _load(name: str, path: str, classes: Sequence[str]) -> tuple[Clips, dict[str, int]]:
    """A data set with all of its classes, and the counts of what is amiss with it."""
    known = None  # those that occur
    if name in DATASET_CLASSES:
        known = tuple(dict.fromkeys((*DATASET_CLASSES[name], *map(normalize_label, classes))))
    return load_dataset(name, Path(path), classes=known, for_training=False)


def _without_foreign(
    option: str, name: str, clips: Clips, counts: dict[str, int], known: set[str]
) -> tuple[Clips, dict[str, int]]:
    """The data set without CK+48's contempt where that is not `known`; raises for any other such class."""
    foreign = {label: count for label, count in count_classes(clips).items() if label not in known}
    contempt = foreign.pop("contempt", 0) if name == "ck48" else 0
    if foreign:
        raise InputError(
            f"{option} has classes that the checkpoint, or one of several, lacks: {', '.join(foreign)}; "
            f"allowed are {', '.join(sorted(known))}: rename them, leave them out, or evaluate what both "
            "have with --common-classes"
        )
    if not contempt:
        return clips, counts
    kept = clips.labels != clips.classes.index("contempt")
    return clips.take(kept), {**counts, "contempt_left_out": contempt}
