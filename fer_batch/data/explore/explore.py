"""What data sets of labelled faces hold: classes, splits, duplicates, odd images, brightness, sharpness."""

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_batch.data.datasets import READERS, load_datasets
from fer_batch.data.images import IMAGE_SUFFIXES
from fer_batch.errors import InputError
from fer_batch.schema import EMOTIONS
from fer_batch.vision.quality import measure_sharpness

SPLITS = ("train", "select", "test")
"""In the order in which they are shown; "select" is FER2013's PublicTest."""
TOGETHER = "together"
"""What all data sets are called as one, where there are several."""
BLANK = "blank"
ODD = {
    "nearly blank": ("contrast", "below", 15.0),
    "very dark": ("brightness", "below", 25.0),
    "very bright": ("brightness", "above", 225.0),
    "very blurred": ("sharpness", "below", 100.0),
    "very sharp": ("sharpness", "above", 10_000.0),
}
"""Kinds of odd images: which of their measures is below or above what. On FER2013 each is one image in a
thousand or a few: photographs in the dark, placeholders ("image not available"), drawings."""
QUANTILES = {"min": 0.0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}
LISTED = 5000
"""Sets of duplicates, and images of each odd kind, that are told one by one."""
AT_ONCE = 2048
"""Images that are measured at once: 20 MB of each intermediate."""


@dataclass(frozen=True, kw_only=True)
class Faces:
    """Data sets as they are, nothing dropped but what can't be read. An example is a still or a sequence."""

    images: np.ndarray
    """`(M, 48, 48) uint8`, grey, as training sees them, those of all examples in order."""
    examples: np.ndarray
    """`(M,) int64`, ascending: the example that an image is of."""
    labels: np.ndarray
    """`(N,) int64`, index into `classes`."""
    splits: np.ndarray
    """`(N,) str`, of `SPLITS`; "train" where the data set says nothing."""
    parts: np.ndarray
    """`(N,) int64`, index into `names`."""
    subjects: np.ndarray
    """`(N,) str`, "" where unknown."""
    sources: list[str]
    """Where each example stands in its data set."""
    names: tuple[str, ...]
    """Of the data sets, each of its own."""
    classes: tuple[str, ...]
    """Those that occur: emotions in the project's order, then others by name."""


def explore(
    data: Sequence[tuple[str, str]], *, on_line: Callable[[str], None] = lambda line: None
) -> tuple[dict[str, Any], Faces]:
    """All figures of data sets, (name, path) as `load_datasets` takes them, and the faces themselves.

    `data` is, of each data set, `name`, `path`, `images`, `left_out` (`{reason: count}`), `empty_folders`,
    `subjects`, `sequence_lengths` and what `count_classes` says; `together` is the latter of all. `training`
    says what `load_datasets` makes of it all: `n`, `splits` and `amiss`, its counts, or why it is `refused`.
    `duplicates` are those of `find_duplicates`, `odd` those of `find_odd`; `brightness` (mean grey, 0 to
    255) and `sharpness` (variance of the Laplacian) have the spread of `all` images and of those of each of
    `classes`. `on_line` is told of each data set when it is read. Raises InputError as `load_datasets` does.
    """
    training = _for_training(data)
    faces, parts = read_faces(data, on_line)
    measures = measure_images(faces.images)
    of_class = faces.labels[faces.examples]
    figures: dict[str, Any] = {
        "data": [
            part | _people(faces, faces.parts == number) | count_classes(faces, faces.parts == number)
            for number, part in enumerate(parts)
        ],
        TOGETHER: count_classes(faces, np.ones(len(faces.labels), bool)),
        "images": len(faces.images),
        "classes": list(faces.classes),
        "training": training,
        "duplicates": find_duplicates(faces),
        "odd": find_odd(faces, measures),
    }
    for name in ("brightness", "sharpness"):
        classes = {text: _spread(measures[name][of_class == c]) for c, text in enumerate(faces.classes)}
        figures[name] = {"all": _spread(measures[name]), "classes": classes}
    return figures, faces


def read_faces(
    data: Sequence[tuple[str, str]], on_line: Callable[[str], None] = lambda line: None
) -> tuple[Faces, list[dict[str, Any]]]:
    """Data sets that `load_datasets` takes, and of each `name`, `path`, `images`, `left_out` and
    `empty_folders`.
    """
    names = _named([name for name, _ in data])
    rows, parts = [], []
    for number, (name, path) in enumerate(data):
        counts: Counter[str] = Counter()
        its = READERS[name](f"--data {name}={path}", Path(path), counts)
        rows += [(number, row) for row in its]
        images = sum(len(row.images) for row in its)
        parts.append(
            {
                "name": names[number],
                "path": _writable(path),
                "images": images,
                "left_out": dict(counts),
                "empty_folders": _empty_folders(Path(path)),
            }
        )
        left_out = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        on_line(f"{names[number]}: {images:,} images" + (f" (left out: {left_out})" if left_out else ""))
    found = {row.label for _, row in rows}
    order = [*(e for e in EMOTIONS if e in found), *sorted(found - set(EMOTIONS))]
    return Faces(
        images=np.concatenate([row.images for _, row in rows]),
        examples=np.repeat(np.arange(len(rows)), [len(row.images) for _, row in rows]),
        labels=np.array([order.index(row.label) for _, row in rows], np.int64),
        splits=np.array([row.split or "train" for _, row in rows], str),
        parts=np.array([number for number, _ in rows], np.int64),
        subjects=np.array([row.subject for _, row in rows], str),
        sources=[_writable(row.source) for _, row in rows],
        names=names,
        classes=tuple(map(_writable, order)),
    ), parts


def count_classes(faces: Faces, chosen: np.ndarray) -> dict[str, Any]:
    """Of the examples at `chosen`, a `(N,) bool` mask, by split and for "all" of them: how many there are,
    `n`; `counts` and `shares` (0 to 1, of the split) by class; and `imbalance_ratio`, the largest class over
    the smallest of those that occur there, None where there are not two.
    """
    labels, splits = faces.labels[chosen], faces.splits[chosen]
    masks = {split: splits == split for split in SPLITS if (splits == split).any()}
    masks["all"] = np.ones(len(labels), bool)
    totals = {split: int(mask.sum()) for split, mask in masks.items()}
    counts = {
        faces.classes[number]: {split: int((labels[mask] == number).sum()) for split, mask in masks.items()}
        for number in np.unique(labels)
    }
    return {
        "n": totals,
        "counts": counts,
        "shares": {name: {s: count / totals[s] for s, count in its.items()} for name, its in counts.items()},
        "imbalance_ratio": {split: _ratio(its[split] for its in counts.values()) for split in masks},
    }


def measure_images(images: np.ndarray) -> dict[str, np.ndarray]:
    """Of `(M, 48, 48) uint8` images `(M,) float64`: `brightness` (mean grey, 0 to 255), `contrast` (standard
    deviation of grey) and `sharpness` (see `vision.quality.sharpness`).
    """
    chunks = [images[start : start + AT_ONCE] for start in range(0, len(images), AT_ONCE)]
    return {
        "brightness": np.concatenate([chunk.mean(axis=(1, 2)) for chunk in chunks]),
        "contrast": np.concatenate([chunk.std(axis=(1, 2)) for chunk in chunks]),
        "sharpness": np.concatenate([measure_sharpness(chunk).astype(np.float64) for chunk in chunks]),
    }


def find_duplicates(faces: Faces) -> dict[str, Any]:
    """Sets of pixel-identical images: how many, and how many images are in them, also by split.

    Of all; `within_split`, of those with several images in that split; of those in several splits
    (`across_splits`; `pairs` counts the sets that two splits share), in several data sets (`across_data`) and
    of several classes (`contradictory`). `distinct` images stay if one of each set is kept. At most `LISTED`
    sets are `listed`, those that matter most first.
    """
    same: dict[bytes, list[int]] = {}
    for number, image in enumerate(faces.images):
        same.setdefault(hashlib.sha1(image.tobytes()).digest(), []).append(number)
    sets = []
    within: dict[str, list[int]] = {split: [] for split in SPLITS if split in faces.splits}
    pairs: Counter[str] = Counter()
    for images in (images for images in same.values() if len(images) > 1):
        its = faces.examples[images]
        splits = Counter(faces.splits[its].tolist())
        for split, count in splits.items():
            if count > 1:
                within[split].append(count)
        pairs.update(map(", ".join, itertools.combinations((s for s in SPLITS if s in splits), 2)))
        facts = (len(splits) > 1, len(set(faces.parts[its])) > 1, len(set(faces.labels[its])) > 1)
        sets.append((images, *facts))

    def counted(flag: int) -> dict[str, Any]:
        chosen = [one[0] for one in sets if one[flag]]
        images = Counter(faces.splits[faces.examples[list(itertools.chain(*chosen))]].tolist())
        return {
            "sets": len(chosen),
            "images": images.total(),
            "splits": {split: images[split] for split in within},
        }

    sets.sort(key=lambda one: (not one[1], not one[3], -len(one[0]), one[0][0]))
    return {
        "distinct": len(same),
        **counted(0),
        "within_split": {split: {"sets": len(c), "images": sum(c)} for split, c in within.items()},
        "across_splits": counted(1) | {"pairs": dict(pairs)},
        "across_data": counted(2),
        "contradictory": counted(3),
        "listed": [[_place(faces, image) for image in images] for images, *_ in sets[:LISTED]],
    }


def find_odd(faces: Faces, measures: dict[str, np.ndarray]) -> dict[str, Any]:
    """Blank images, all of whose pixels are equal, and the others of each kind of `ODD`: the `rule`, how many
    (`count`), in which `splits` and `classes`, and at most `LISTED` of them, the oddest first, with their
    measures. An image may be of several kinds.
    """
    blank = faces.images.min(axis=(1, 2)) == faces.images.max(axis=(1, 2))
    kinds = {BLANK: ("all pixels are equal", blank, measures["brightness"])}
    for kind, (name, side, limit) in ODD.items():
        values = measures[name] if side == "below" else -measures[name]
        found = ~blank & (values < (limit if side == "below" else -limit))
        kinds[kind] = (f"{name} {side} {limit:,.0f}", found, values)
    odd = {}
    for kind, (rule, found, values) in kinds.items():
        images = np.flatnonzero(found)
        images = images[np.argsort(values[images], kind="stable")]
        its = faces.examples[images]
        odd[kind] = {
            "rule": rule,
            "count": len(images),
            "splits": {s: n for s in SPLITS if (n := int((faces.splits[its] == s).sum()))},
            "classes": {
                text: n for c, text in enumerate(faces.classes) if (n := int((faces.labels[its] == c).sum()))
            },
            "listed": [
                _place(faces, image) | {name: round(float(v[image]), 2) for name, v in measures.items()}
                for image in images[:LISTED].tolist()
            ],
        }
    return odd


def parts_of(figures: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The figures of each data set by its name, and those of all together where there are several."""
    parts = [(part["name"], part) for part in figures["data"]]
    return [*parts, (TOGETHER, figures[TOGETHER])] if len(parts) > 1 else parts


def _for_training(data: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """What training would make of the data, or why it would not; raises what is wrong with the data."""
    try:
        clips, counts = load_datasets(data)
    except InputError as error:
        load_datasets(data, for_training=False)  # raises the same unless the data can be read
        return {"refused": _writable(str(error))}
    return {"n": len(clips), "splits": dict(Counter(clips.splits.tolist())), "amiss": dict(counts)}


def _people(faces: Faces, chosen: np.ndarray) -> dict[str, Any]:
    """`subjects`, how many there are and how many examples they have, and `sequence_lengths`, how many
    examples have how many images; None where none is known, and where all are stills.
    """
    lengths = np.bincount(faces.examples, minlength=len(faces.labels))[chosen]
    each = list(Counter(name for name in faces.subjects[chosen].tolist() if name).values())
    examples = {"min": min(each), "median": float(np.median(each)), "max": max(each)} if each else {}
    counted = {str(length): count for length, count in sorted(Counter(lengths.tolist()).items())}
    return {
        "subjects": {"count": len(each), "examples_of_one": examples} if each else None,
        "sequence_lengths": counted if lengths.max() > 1 else None,
    }


def _place(faces: Faces, image: int) -> dict[str, Any]:
    """Which image it is, and where it stands in its data set."""
    example = int(faces.examples[image])
    first, after = np.searchsorted(faces.examples, [example, example + 1]).tolist()
    which = f", image {image - first + 1} of {after - first}" if after - first > 1 else ""
    return {
        "image": image,
        "data": faces.names[faces.parts[example]],
        "split": str(faces.splits[example]),
        "class": faces.classes[faces.labels[example]],
        "source": faces.sources[example] + which,
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    """Number, mean, standard deviation and quantiles."""
    quantiles = np.quantile(values, list(QUANTILES.values())).tolist()
    return {
        "n": len(values),
        "mean": float(values.mean()),
        "sd": float(values.std()),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }


def _ratio(counts: Iterable[int]) -> float | None:
    there = [count for count in counts if count]
    return max(there) / min(there) if len(there) > 1 else None


def _named(names: Sequence[str]) -> tuple[str, ...]:
    """Each name of its own: "folder", "folder 2"."""
    seen: Counter[str] = Counter()
    told = []
    for name in names:
        seen[name] += 1
        told.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return tuple(told)


def _empty_folders(path: Path) -> list[str]:
    """Folders below `path` that hold neither an image nor another folder."""
    return sorted(
        _writable(str(Path(folder).relative_to(path)))
        for folder, folders, files in os.walk(path)
        if not folders
        and not any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in files)
        and not any(part.startswith((".", "__MACOSX")) for part in Path(folder).relative_to(path).parts)
    )


def _writable(text: str) -> str:
    """A text that can be written as UTF-8: names of files may be of other bytes."""
    return text.encode("utf-8", "backslashreplace").decode()
