"""The statistics of data sets as tables, the same for the terminal, the workbook and the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import pandas as pd

from fer_batch.data.explore.explore import MAX_LISTED, ClassCounts, Exploration, TrainingOutcome

QUANTILE_HEADERS = {"min": "least", "q05": "5 %", "q25": "25 %", "q75": "75 %", "q95": "95 %", "max": "most"}
PLACE_TITLES = {"data": "data set", "source": "place"}
LEFT_OUT_TEXTS = {
    "unreadable": "unreadable, left out",
    "without_class": "in no class's folder, left out",
    "contempt_left_out": "sequences of contempt, left out unless --classes names it",
    "twins_dropped": "of train that show the same picture as one of another split, dropped from train",
    "blank_dropped": "blank ones of train, dropped",
    "contradictory": "of train that occur there with another class too, kept",
}
SPLIT_TEXTS = {
    "train": "of these in train",
    "calibrate": "held out of train for the temperature",
    "select": "in select, to choose the epoch",
    "test": "in test",
}
DUPLICATE_TEXTS = {
    "all": "all",
    "across_splits": "in several splits",
    "across_data": "in several data sets",
    "contradictory": "of several classes",
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with a title."""

    title: str
    frame: pd.DataFrame
    """Cells of text, numbers and None."""
    shares: Sequence[int] = ()
    """Numbers of the columns with shares, 0 to 1."""

    def format_rows(self) -> list[list[str]]:
        """Return the cells as text."""
        return [
            [_format_cell(value, column in self.shares) for column, value in enumerate(row)]
            for row in self.frame.itertuples(index=False)
        ]

    def is_numeric(self) -> list[bool]:
        """Return for each column whether it holds numbers and no text."""
        kinds = [pd.api.types.infer_dtype(self.frame.iloc[:, i]) for i in range(self.frame.shape[1])]
        return [kind in ("integer", "floating", "mixed-integer-float") for kind in kinds]


def list_tables(exploration: Exploration) -> dict[str, list[Table]]:
    """Return all tables by topic, without the lists of single images."""
    return {
        "datasets": [_tabulate_datasets(exploration)],
        "classes": [_tabulate_classes(name, counts) for name, counts in exploration.parts],
        "duplicates": [_tabulate_duplicates(exploration)],
        "odd": [_tabulate_odd(exploration)],
        "spreads": [_tabulate_spread(name, spreads) for name, spreads in exploration.spreads.items()],
        "training": [_tabulate_training(exploration.training)],
    }


def tabulate_counts(exploration: Exploration) -> pd.DataFrame:
    """Return the counts for programs: a row for each data set, class and split."""
    tables = {
        name: pd.DataFrame({"count": part.counts.stack(), "share": part.shares.stack()})
        for name, part in exploration.parts
    }
    return pd.concat(tables, names=["data", "class", "split"]).reset_index()


def list_duplicates(exploration: Exploration, max_sets: int = MAX_LISTED) -> Table:
    """List the images of the first sets of identical ones."""
    duplicates = exploration.duplicates
    listed = duplicates.listed[duplicates.listed["set"] <= max_sets]
    shown, total = listed["set"].nunique(), int(duplicates.kinds["sets"]["all"])
    more = f", {shown:,} of {total:,}" if shown < total else ""
    frame = listed.drop(columns="image").rename(columns=PLACE_TITLES)
    return Table(title=f"sets of identical images{more}", frame=frame)


def list_odd(exploration: Exploration, max_images: int = MAX_LISTED) -> Table:
    """List the blank and odd images, the first of each kind."""
    first = {kind: odd.listed.head(max_images) for kind, odd in exploration.odd.items()}
    frame = pd.concat(first, names=["images"]).reset_index(level=0).drop(columns="image")
    cut = any(odd.count > max_images for odd in exploration.odd.values())
    title = "list, the oddest first" + (f", at most {max_images:,} of a kind" if cut else "")
    return Table(title=title, frame=frame.rename(columns=PLACE_TITLES))


def _tabulate_datasets(exploration: Exploration) -> Table:
    rows: list[list[object]] = []
    for dataset in exploration.datasets:
        subjects, lengths = dataset.subjects, dataset.sequence_lengths
        left_out = (f"{count:,} {LEFT_OUT_TEXTS.get(key, key)}" for key, count in dataset.left_out.items())
        facts = {
            "path": dataset.path,
            "images": dataset.images,
            "sequences": dataset.n["all"] if lengths else None,
            "images of a sequence": ", ".join(f"{n} (of {c:,})" for n, c in (lengths or {}).items()),
            "people": subjects and subjects.count,
            "sequences of a person": subjects
            and "{min:g} to {max:g}, median {median:g}".format_map(subjects.examples_of_one),
            "left out": "; ".join(left_out),
            "folders without images": ", ".join(dataset.empty_folders),
        }
        rows += [[dataset.name, name, value] for name, value in facts.items() if value not in (None, "")]
    return _make_table("data sets", ["data set", "fact", "value"], rows)


def _tabulate_classes(name: str, classes: ClassCounts) -> Table:
    splits = [split for split in classes.n.index if split != "all" or len(classes.n) > 2]
    counts, shares, ratios = classes.counts, classes.shares, classes.imbalance_ratio
    header = ["class", *(text for split in splits for text in (split, f"{split}, share"))]
    rows: list[list[object]] = [
        [text, *(table.at[text, split] for split in splits for table in (counts, shares))]
        for text in counts.index
    ]
    rows.append(["all classes", *(value for split in splits for value in (classes.n[split], 1.0))])
    rows.append(["largest / smallest class", *(v for split in splits for v in (ratios[split], None))])
    return _make_table(name, header, rows, shares=range(2, len(header), 2))


def _tabulate_duplicates(exploration: Exploration) -> Table:
    duplicates = exploration.duplicates
    splits = exploration.faces.splits
    rows: list[list[object]] = [
        [text, *duplicates.kinds.loc[kind]]
        for kind, text in DUPLICATE_TEXTS.items()
        if kind != "across_data" or len(exploration.datasets) > 1
    ]
    for split, row in duplicates.within_split.iterrows():
        images = (row["images"] if other == split else None for other in splits)
        rows.append([f"several in {split}", row["sets"], row["images"], *images])
    for pair, sets in duplicates.pairs.items():
        rows.append([f"in {pair.replace(', ', ' and in ')}", sets, *[None] * (len(splits) + 1)])
    header = ["pixel-identical images", "sets", "images", *(f"images of {split}" for split in splits)]
    return _make_table("duplicates", header, rows)


def _tabulate_odd(exploration: Exploration) -> Table:
    splits = exploration.faces.splits
    rows: list[list[object]] = [
        [kind, odd.rule, odd.count, *(odd.splits.get(split, 0) for split in splits)]
        for kind, odd in exploration.odd.items()
    ]
    return _make_table("blank and odd images", ["images", "rule", "all", *splits], rows)


def _tabulate_spread(name: str, spreads: pd.DataFrame) -> Table:
    named = spreads.rename(columns={"n": "images", **QUANTILE_HEADERS})
    return Table(title=name, frame=named.rename_axis("class").reset_index())


def _tabulate_training(training: TrainingOutcome) -> Table:
    if training.refused:
        return _make_table("for training", ["result", "reason"], [["refused", training.refused]])
    rows: list[list[object]] = [["stills and sequences", training.n]]
    rows += [
        [text, training.splits[split]] for split, text in SPLIT_TEXTS.items() if split in training.splits
    ]
    rows += [[LEFT_OUT_TEXTS.get(reason, reason), count] for reason, count in training.dropped.items()]
    return _make_table("for training", ["examples", "count"], rows)


def _make_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[object]], shares: Sequence[int] = ()
) -> Table:
    return Table(title=title, frame=pd.DataFrame(rows, columns=list(header), dtype=object), shares=shares)


def _format_cell(value: object, is_share: bool) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{100 * value:.1f} %" if is_share else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, Integral) else str(value)
