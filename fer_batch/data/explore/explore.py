"""Statistics of data sets of labelled faces: classes, duplicates, odd images, brightness and sharpness."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from fer_batch.data.datasets import load_datasets
from fer_batch.data.explore.faces import MEASURES, LabelledFaces, Source, read_faces
from fer_batch.errors import InputError
from fer_batch.records import Record, to_plain

TOGETHER = "together"
"""Name of all data sets as one."""
ALL_CLASSES = "all classes"
BLANK = "blank"
ODD_RULES = {
    "nearly blank": ("contrast", "below", 15.0),
    "very dark": ("brightness", "below", 25.0),
    "very bright": ("brightness", "above", 225.0),
    "very blurred": ("sharpness", "below", 100.0),
    "very sharp": ("sharpness", "above", 10_000.0),
}
"""Measure, side and limit of each kind of odd image. In FER2013 each kind is a few images in a thousand:
photographs in the dark, placeholders ("image not available"), drawings."""
QUANTILES = {"min": 0.0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}
MAX_LISTED = 5000
"""Sets of duplicates, and images of each odd kind, that are listed."""
PLACE_COLUMNS = ["data", "split", "class", "source"]


@dataclass(frozen=True, kw_only=True)
class ClassCounts(Record):
    """Numbers of examples."""

    json_properties = ("n", "shares", "imbalance_ratio")
    counts: pd.DataFrame
    """A row for each class, a column for each split, and a column "all"."""

    @property
    def n(self) -> pd.Series:
        """Number of examples of each split."""
        return self.counts.sum()

    @property
    def shares(self) -> pd.DataFrame:
        """Share of each class in each split, 0 to 1."""
        return self.counts / self.n

    @property
    def imbalance_ratio(self) -> dict[str, float | None]:
        """The largest class over the smallest that occurs, by split; None with fewer than two classes."""
        present = self.counts[self.counts > 0]
        ratios = (present.max() / present.min())[present.count() > 1]
        return {str(split): ratios.get(split) for split in self.counts}


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """The known people of a data set."""

    count: int
    examples_of_one: dict[str, float]
    """Number of examples of one person: `min`, `median` and `max`."""


@dataclass(frozen=True, kw_only=True)
class DatasetSummary(ClassCounts, Source):
    """One data set."""

    images: int
    subjects: Subjects | None
    sequence_lengths: dict[int, int] | None
    """Number of examples by their number of images; None for stills."""


@dataclass(frozen=True, kw_only=True)
class Duplicates(Record):
    """Sets of pixel-identical images."""

    distinct: int
    """Number of images if one of each set is kept."""
    kinds: pd.DataFrame
    """Columns `sets`, `images` and a number of images for each split. Rows: "all", "across_splits" (sets in
    several splits), "across_data" (in several data sets), "contradictory" (of several classes)."""
    within_split: pd.DataFrame
    """Columns `sets` and `images`; a row for each split, for sets with several images in it."""
    pairs: dict[str, int]
    """Number of sets that two splits share."""
    listed: pd.DataFrame
    """The images of at most `MAX_LISTED` sets, the most important first: `set` (from 1), `image` (row of the
    table of images) and `PLACE_COLUMNS`."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        kinds = {
            str(kind): {"sets": row.pop("sets"), "images": row.pop("images"), "splits": row}
            for kind, row in self.kinds.to_dict("index").items()
        }
        kinds["across_splits"]["pairs"] = self.pairs
        return {
            "distinct": self.distinct,
            **kinds.pop("all"),
            "within_split": to_plain(self.within_split),
            **kinds,
            "listed": [rows.drop(columns="set").to_dict("records") for _, rows in self.listed.groupby("set")],
        }


@dataclass(frozen=True, kw_only=True)
class OddImages:
    """Odd images of one kind. An image may be of several kinds."""

    rule: str
    count: int
    splits: dict[str, int]
    classes: dict[str, int]
    listed: pd.DataFrame
    """At most `MAX_LISTED` images, the oddest first: `image`, `PLACE_COLUMNS` and `MEASURES`."""


@dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """The result of loading the data for training."""

    refused: str | None = None
    """Why the data cannot be used for training. If it is not None, the other fields are empty."""
    n: int = 0
    """Number of stills and sequences."""
    splits: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    """Numbers of examples by the reasons of `load_datasets`."""


@dataclass(frozen=True, kw_only=True)
class Exploration(Record):
    """All statistics of several data sets."""

    faces: LabelledFaces
    datasets: list[DatasetSummary]
    together: ClassCounts
    training: TrainingOutcome
    duplicates: Duplicates
    odd: dict[str, OddImages]
    """Odd images by kind."""
    spreads: dict[str, pd.DataFrame]
    """For "brightness" and "sharpness": a row for each class and for `ALL_CLASSES`, with `n`, `mean`, `sd`
    and `QUANTILES`."""

    @property
    def parts(self) -> list[tuple[str, ClassCounts]]:
        """The counts of each data set by name, and of all together if there are several."""
        parts: list[tuple[str, ClassCounts]] = [(dataset.name, dataset) for dataset in self.datasets]
        return [*parts, (TOGETHER, self.together)] if len(parts) > 1 else parts

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `explore.json`, without `pictures`."""
        spreads = {name: table.to_dict("index") for name, table in self.spreads.items()}
        names = (TOGETHER, "training", "duplicates", "odd")
        return {
            "data": to_plain(self.datasets),
            "images": len(self.faces.pixels),
            "classes": list(self.faces.classes),
            **{name: to_plain(getattr(self, name)) for name in names},
            **{name: {"all": rows.pop(ALL_CLASSES), "classes": rows} for name, rows in spreads.items()},
        }


def explore(
    data: Sequence[tuple[str, str]], *, on_line: Callable[[str], None] = lambda line: None
) -> Exploration:
    """Compute all statistics of data sets, (name, path) each, which `load_datasets` accepts.

    `on_line` is called with a line for each data set. Raises InputError as `load_datasets` does.
    """
    training = _try_training(data)
    faces = read_faces(data, on_line)
    table = faces.table
    return Exploration(
        faces=faces,
        datasets=[_summarize_dataset(faces, source) for source in faces.sources],
        together=count_classes(faces, table),
        training=training,
        duplicates=find_duplicates(faces),
        odd=find_odd(faces),
        spreads={name: _measure_spreads(faces, name) for name in ("brightness", "sharpness")},
    )


def count_classes(faces: LabelledFaces, images: pd.DataFrame) -> ClassCounts:
    """Count the examples of these rows of the table of images, by class and split."""
    examples = images.drop_duplicates("example")
    counts = pd.crosstab(examples["class"], examples["split"])
    present = [name for name in faces.classes if name in counts.index]
    counts = counts.loc[present, [split for split in faces.splits if split in counts.columns]]
    return ClassCounts(counts=counts.assign(all=counts.sum(axis=1)))


def find_duplicates(faces: LabelledFaces) -> Duplicates:
    """Find the sets of pixel-identical images, within and across splits, data sets and classes."""
    images = faces.table.assign(
        image=np.arange(len(faces.pixels)),
        digest=[hashlib.sha1(pixels.tobytes()).digest() for pixels in faces.pixels],
    )
    repeated = images[images.duplicated("digest", keep=False)]
    sets = repeated.groupby("digest").agg(
        size=("image", "size"),
        first=("image", "min"),
        splits=("split", "nunique"),
        data=("data", "nunique"),
        classes=("class", "nunique"),
    )
    sizes = pd.crosstab(repeated["digest"], repeated["split"]).reindex(columns=faces.splits, fill_value=0)
    sets["across_splits"], sets["contradictory"] = sets["splits"] > 1, sets["classes"] > 1
    masks = {
        "all": sets["size"] > 0,
        "across_splits": sets["across_splits"],
        "across_data": sets["data"] > 1,
        "contradictory": sets["contradictory"],
    }
    images_of_split = pd.DataFrame({kind: sizes[mask].sum() for kind, mask in masks.items()}).T
    numbers = {"sets": [mask.sum() for mask in masks.values()], "images": images_of_split.sum(axis=1)}
    several = sizes.where(sizes > 1, 0)
    pairs = {
        f"{first}, {second}": int(((sizes[first] > 0) & (sizes[second] > 0)).sum())
        for first, second in itertools.combinations(faces.splits, 2)
    }
    order = sets.sort_values(
        ["across_splits", "contradictory", "size", "first"], ascending=[False, False, False, True]
    )
    ranks = {digest: rank for rank, digest in enumerate(order.index[:MAX_LISTED], 1)}
    listed = repeated.assign(set=repeated["digest"].map(ranks)).dropna(subset="set").astype({"set": int})
    return Duplicates(
        distinct=images["digest"].nunique(),
        kinds=pd.DataFrame(numbers).join(images_of_split).astype(int),
        within_split=pd.DataFrame({"sets": (several > 0).sum(), "images": several.sum()}).astype(int),
        pairs={pair: count for pair, count in pairs.items() if count},
        listed=listed.sort_values(["set", "image"])[["set", "image", *PLACE_COLUMNS]],
    )


def find_odd(faces: LabelledFaces) -> dict[str, OddImages]:
    """Find blank images, whose pixels are all equal, and the images of each kind of `ODD_RULES`."""
    images = faces.table.assign(image=np.arange(len(faces.pixels)))
    blank = faces.pixels.min(axis=(1, 2)) == faces.pixels.max(axis=(1, 2))
    kinds = {BLANK: ("all pixels are equal", images[blank].sort_values("brightness", kind="stable"))}
    for kind, (measure, side, limit) in ODD_RULES.items():
        exceeds = images[measure] < limit if side == "below" else images[measure] > limit
        odd = images[~blank & exceeds].sort_values(measure, ascending=side == "below", kind="stable")
        kinds[kind] = (f"{measure} {side} {limit:,.0f}", odd)

    def count(names: Sequence[str], column: pd.Series) -> dict[str, int]:
        counts = Counter(column)
        return {name: counts[name] for name in names if counts[name]}

    return {
        kind: OddImages(
            rule=rule,
            count=len(odd),
            splits=count(faces.splits, odd["split"]),
            classes=count(faces.classes, odd["class"]),
            listed=odd.head(MAX_LISTED)[["image", *PLACE_COLUMNS, *MEASURES]]
            .round(dict.fromkeys(MEASURES, 2))
            .reset_index(drop=True),
        )
        for kind, (rule, odd) in kinds.items()
    }


def _try_training(data: Sequence[tuple[str, str]]) -> TrainingOutcome:
    """Load the data for training; raises InputError if none of it can be read."""
    try:
        clips, counts = load_datasets(data)
    except InputError as error:
        load_datasets(data, for_training=False)  # raises the same error unless the data can be read
        return TrainingOutcome(refused=str(error).encode("utf-8", "backslashreplace").decode())
    splits = Counter(clips.splits.tolist())
    return TrainingOutcome(n=len(clips), splits=dict(splits), dropped=dict(counts))


def _summarize_dataset(faces: LabelledFaces, source: Source) -> DatasetSummary:
    images = faces.table[faces.table["data"] == source.name]
    examples = images.groupby("example").agg(length=("class", "size"), subject=("subject", "first"))
    known = examples["subject"][examples["subject"] != ""].value_counts()
    subjects = Subjects(count=len(known), examples_of_one=dict(known.agg(["min", "median", "max"])))
    lengths = examples["length"].value_counts().sort_index()
    return DatasetSummary(
        **vars(source),
        counts=count_classes(faces, images).counts,
        images=len(images),
        subjects=subjects if len(known) else None,
        sequence_lengths=dict(lengths) if lengths.index.max() > 1 else None,
    )


def _measure_spreads(faces: LabelledFaces, name: str) -> pd.DataFrame:
    both = pd.concat([faces.table, faces.table.assign(**{"class": ALL_CLASSES})])
    groups = both.groupby("class")[name]
    quantiles = (
        groups.quantile(np.array(list(QUANTILES.values()))).unstack().set_axis(list(QUANTILES), axis=1)
    )
    spreads = groups.agg(n="size", mean="mean").assign(sd=groups.std(ddof=0)).join(quantiles)
    return spreads.loc[[*faces.classes, ALL_CLASSES]]
