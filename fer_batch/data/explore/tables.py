"""The statistics of data sets as tables, the same for the terminal, the workbook and the page."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from fer_batch.data.explore.explore import MAX_LISTED, MEASURES, ClassCounts, Exploration

QUANTILE_HEADERS = {"min": "least", "q05": "5 %", "q25": "25 %", "q75": "75 %", "q95": "95 %", "max": "most"}
LEFT_OUT_TEXTS = {
    "unreadable": "unreadable, left out",
    "without_class": "in no class's folder, left out",
    "contempt_left_out": "sequences of contempt, left out unless --classes names it",
    "twins_dropped": "of train that are pixel-identical to an image of another split, dropped from train",
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
        kinds = [{type(value) for value in self.frame.iloc[:, i]} for i in range(self.frame.shape[1])]
        return [str not in types and bool(types & {int, float}) for types in kinds]


def list_tables(exploration: Exploration) -> list[Table]:
    """Return all tables without the lists of single images."""
    return [
        tabulate_datasets(exploration),
        *tabulate_classes(exploration),
        tabulate_duplicates(exploration),
        tabulate_odd(exploration),
        tabulate_spread(exploration, "brightness"),
        tabulate_spread(exploration, "sharpness"),
        tabulate_training(exploration),
    ]


def tabulate_datasets(exploration: Exploration) -> Table:
    """List the facts about each data set."""
    rows: list[list[object]] = []
    for dataset in exploration.datasets:
        source, people, lengths = dataset.source, dataset.people, dataset.sequence_lengths
        left_out = (f"{count:,} {LEFT_OUT_TEXTS.get(key, key)}" for key, count in source.left_out.items())
        facts = {
            "path": source.path,
            "images": dataset.images,
            "sequences": int(dataset.classes.n["all"]) if lengths else None,
            "images of a sequence": ", ".join(f"{n} (of {c:,})" for n, c in (lengths or {}).items()),
            "people": people["count"] if people else None,
            "sequences of a person": people and "{min} to {max}, median {median:g}".format_map(people),
            "left out": "; ".join(left_out),
            "folders without images": ", ".join(source.empty_folders),
        }
        rows += [[source.name, name, value] for name, value in facts.items() if value not in (None, "")]
    return _make_table("data sets", ["data set", "fact", "value"], rows)


def tabulate_classes(exploration: Exploration) -> list[Table]:
    """Count classes by split: a table for each data set, and for all together if there are several."""
    return [_tabulate_counts(name, counts) for name, counts in exploration.parts]


def _tabulate_counts(name: str, classes: ClassCounts) -> Table:
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


def tabulate_counts(exploration: Exploration) -> pd.DataFrame:
    """Return the counts for programs: a row for each data set, class and split."""
    rows = [
        [name, text, split, counts.counts.at[text, split], counts.shares.at[text, split]]
        for name, counts in exploration.parts
        for text in counts.counts.index
        for split in counts.counts.columns
    ]
    return pd.DataFrame(rows, columns=["data", "class", "split", "count", "share"])


def tabulate_duplicates(exploration: Exploration) -> Table:
    """Count the sets of identical images by kind."""
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


def list_duplicates(exploration: Exploration, max_sets: int = MAX_LISTED) -> Table:
    """List the images of the first sets of identical ones."""
    duplicates = exploration.duplicates
    listed = duplicates.listed[duplicates.listed["set"] <= max_sets]
    shown, total = listed["set"].nunique(), int(duplicates.kinds["sets"]["all"])
    more = f", {shown:,} of {total:,}" if shown < total else ""
    header = ["set", "data set", "split", "class", "place"]
    rows = listed.drop(columns="image").to_numpy(object).tolist()
    return _make_table(f"sets of identical images{more}", header, rows)


def tabulate_odd(exploration: Exploration) -> Table:
    """Count blank and odd images by kind."""
    splits = exploration.faces.splits
    rows: list[list[object]] = [
        [kind, odd.rule, odd.count, *(odd.splits.get(split, 0) for split in splits)]
        for kind, odd in exploration.odd.items()
    ]
    return _make_table("blank and odd images", ["images", "rule", "all", *splits], rows)


def list_odd(exploration: Exploration, max_images: int = MAX_LISTED) -> Table:
    """List the blank and odd images, the first of each kind."""
    rows = [
        [kind, *row]
        for kind, odd in exploration.odd.items()
        for row in odd.listed.head(max_images).drop(columns="image").to_numpy(object).tolist()
    ]
    cut = any(odd.count > max_images for odd in exploration.odd.values())
    title = "list, the oddest first" + (f", at most {max_images:,} of a kind" if cut else "")
    return _make_table(title, ["images", "data set", "split", "class", "place", *MEASURES], rows)


def tabulate_spread(exploration: Exploration, name: str) -> Table:
    """Describe the distribution of brightness or sharpness by class."""
    spreads = exploration.spreads[name].rename(columns={"n": "images", **QUANTILE_HEADERS})
    rows = [[text, *values] for text, values in zip(spreads.index, spreads.to_numpy().tolist(), strict=True)]
    rows = [[text, int(count), *values] for text, count, *values in rows]
    return _make_table(name, ["class", *spreads.columns], rows)


def tabulate_training(exploration: Exploration) -> Table:
    """Describe the result of loading the data for training."""
    training = exploration.training
    if training.refused:
        return _make_table("for training", ["result", "reason"], [["refused", training.refused]])
    splits = training.splits
    rows: list[list[object]] = [["stills and sequences", training.n]]
    rows += [[text, splits[split]] for split, text in SPLIT_TEXTS.items() if split in splits]
    rows += [[LEFT_OUT_TEXTS.get(reason, reason), count] for reason, count in training.dropped.items()]
    return _make_table("for training", ["examples", "count"], rows)


def _make_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[object]], shares: Sequence[int] = ()
) -> Table:
    plain = [[value.item() if hasattr(value, "item") else value for value in row] for row in rows]
    return Table(title=title, frame=pd.DataFrame(plain, columns=list(header), dtype=object), shares=shares)


def _format_cell(value: object, is_share: bool) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{100 * value:.1f} %" if is_share else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
