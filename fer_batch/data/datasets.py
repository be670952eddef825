"""Loading of labelled faces from the data sets that `--data NAME=PATH` names."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from fer_batch.data.affectnet import read_affectnet
from fer_batch.data.ck48 import read_ck48
from fer_batch.data.clips import Clips, stack_examples
from fer_batch.data.fer2013 import read_fer2013
from fer_batch.data.folders import read_folder
from fer_batch.data.images import LabelledExample
from fer_batch.data.labels import check_classes, normalize_label
from fer_batch.data.muxspace import read_muxspace
from fer_batch.data.rafdb import read_rafdb
from fer_batch.data.splits import divide_for_training
from fer_batch.errors import InputError
from fer_batch.schema import EMOTIONS

READERS: dict[str, Callable[[str, Path, Counter[str]], list[LabelledExample]]] = {
    "fer2013": read_fer2013,
    "ck48": read_ck48,
    "muxspace": read_muxspace,
    "rafdb": read_rafdb,
    "affectnet": read_affectnet,
    "folder": read_folder,
}
DATASETS = (*READERS, "clips")
"""Names that `--data NAME=PATH` accepts. "clips" means labelled videos; `data.videos` reads those."""
DATASET_CLASSES = {
    "fer2013": EMOTIONS,
    "ck48": (*EMOTIONS, "contempt"),
    "muxspace": (*EMOTIONS, "contempt"),
    "rafdb": EMOTIONS,
    "affectnet": (*EMOTIONS, "contempt"),
}
"""Classes of the data sets that have fixed ones; "folder" may have any."""


def load_datasets(
    data: Sequence[tuple[str, str]],
    *,
    classes: Sequence[str] | None = None,
    leave_out: Sequence[str] = (),
    for_training: bool = True,
) -> tuple[Clips, Counter[str]]:
    """Load one or more data sets as one set of clips, and count left-out and doubtful examples.

    `data` has pairs of a name (a key of `READERS`) and a path. `classes` are the classes of the clips, under
    any of their names. By default they are the classes of the data in alphabetical order, after the seven
    emotions if a key of `DATASET_CLASSES` is among the data. Contempt of those data sets is left out unless
    it is in `classes`. Examples of the classes in `leave_out` are left out of all data sets.

    With `for_training`, `splits.divide_for_training` gives each example its split and drops leaks.
    Otherwise nothing is dropped, and examples without a split are "train".

    The counts have the keys "unreadable" and "without_class" (images), "contempt_left_out" and
    "disgust_left_out" … (examples), those of `read_affectnet`, and those of `divide_for_training`. Keys
    with a count of 0 are absent.

    Raises InputError if a data set does not exist or has another layout, if more than half of its images
    cannot be read, if it has a class that is not allowed, if `leave_out` names an unknown class, or, for
    training, if there is only one class.
    """
    if not data:
        raise InputError("no data set given; add --data NAME=PATH")
    counts: Counter[str] = Counter()
    omitted = {normalize_label(name) for name in leave_out}
    datasets = [_read_dataset(name, path, classes, omitted, counts) for name, path in data]
    if classes is None:
        classes = _infer_classes([name for name, _ in data], datasets, omitted)
    _check_left_out(leave_out, classes, counts)
    allowed = {normalize_label(name) for name in classes}
    kept = [[row for row in rows if row.label in allowed] for rows in datasets]
    if contempt := sum(map(len, datasets)) - sum(map(len, kept)):
        counts["contempt_left_out"] += contempt
    if for_training:
        _check_two_classes(data, {row.label for rows in kept for row in rows})
        examples = divide_for_training(kept, counts)
    else:
        examples = [dataclasses.replace(row, split=row.split or "train") for rows in kept for row in rows]
    return stack_examples(examples, classes), counts


def _read_dataset(
    name: str, given_path: str, classes: Sequence[str] | None, omitted: set[str], counts: Counter[str]
) -> list[LabelledExample]:
    """Read a data set, drop the classes in `omitted`, and check the others."""
    option, path = f"--data {name}={given_path}", Path(given_path)
    if name not in DATASETS:
        raise InputError(f"{option}: unknown data set {name!r}; allowed are {', '.join(DATASETS)}")
    if name not in READERS:
        raise InputError(f"{option}: expected images, got videos; allowed here are {', '.join(READERS)}")
    if not given_path or not path.exists():
        raise InputError(f"{option}: there is no such file or folder")
    rows = READERS[name](option, path, counts)
    counts.update(f"{row.label}_left_out" for row in rows if row.label in omitted)
    rows = [dataclasses.replace(row, dataset=name) for row in rows if row.label not in omitted]
    if not rows:
        raise InputError(f"{option}: no labelled face images found")
    labels = {row.label for row in rows}
    if name in DATASET_CLASSES:
        optional = set(DATASET_CLASSES[name]) - set(EMOTIONS)
        check_classes(option, labels - optional, DATASET_CLASSES[name] if classes is None else classes)
    elif classes is not None:
        check_classes(option, labels, classes)
    return rows


def _infer_classes(
    names: Sequence[str], datasets: Sequence[Sequence[LabelledExample]], omitted: set[str]
) -> tuple[str, ...]:
    """Return the emotions if a data set of emotions is among the data, then the other classes by name."""
    labels = {
        row.label
        for name, rows in zip(names, datasets, strict=True)
        for row in rows
        if row.label != "contempt" or name not in DATASET_CLASSES
    }
    emotions = EMOTIONS if any(name in DATASET_CLASSES for name in names) else ()
    return (*(e for e in emotions if e not in omitted), *sorted(labels - set(emotions)))


def _check_left_out(leave_out: Sequence[str], classes: Sequence[str], counts: Counter[str]) -> None:
    known = set(DATASET_CLASSES["ck48"])
    unknown = [
        name
        for name in leave_out
        if not counts[f"{normalize_label(name)}_left_out"] and normalize_label(name) not in known
    ]
    if unknown:
        raise InputError(
            f"--leave-out names unknown classes: {', '.join(unknown)}; the data has {', '.join(classes)}"
        )


def _check_two_classes(data: Sequence[tuple[str, str]], labels: Iterable[str]) -> None:
    present = sorted(labels)
    if len(present) < 2:
        options = ", ".join(f"--data {name}={path}" for name, path in data)
        raise InputError(
            f"{options}: training needs two or more classes, found {', '.join(present) or 'none'}"
        )
