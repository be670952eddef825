"""The figures of data sets as tables, the same for the screen, the workbook and the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fer_batch.data.explore.explore import LISTED, SPLITS, TOGETHER, parts_of

Value = str | int | float | None
QUANTILES = {
    "min": "least",
    "q05": "5 %",
    "q25": "25 %",
    "median": "median",
    "q75": "75 %",
    "q95": "95 %",
    "max": "most",
}
"""What those of the figures are called."""
AMISS = {
    "unreadable": "can't be read, left out",
    "without_class": "stand in no class's folder, left out",
    "contempt_left_out": "sequences of contempt: left out unless --classes names it",
    "twins_dropped": "of train that stand pixel-identical in another split: dropped from train",
    "blank_dropped": "blank ones of train: dropped",
    "contradictory": "of train that stand there again in another class: kept",
}
"""What the counts of `load_datasets` are of."""
TAKEN = {
    "train": "of these in train",
    "calibrate": "held out of train, for the temperature",
    "select": "in select, to choose the epoch",
    "test": "in test",
}
"""What training calls its splits."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with a title; shares are 0 to 1."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Value]]
    shares: Sequence[int] = ()
    """Columns that are shares, by number."""

    def text(self, row: int, column: int) -> str:
        """A cell as people read it."""
        value = self.rows[row][column]
        if value is None:
            return ""
        if isinstance(value, float):
            return f"{100 * value:.1f} %" if column in self.shares else f"{value:,.1f}"
        return value if isinstance(value, str) else f"{value:,}"


def data_table(figures: dict[str, Any]) -> Table:
    """What each data set is."""
    rows: list[list[Value]] = []
    for part in figures["data"]:
        people = part["subjects"]
        lengths = part["sequence_lengths"]
        facts = {
            "path": part["path"],
            "images": part["images"],
            "sequences": part["n"]["all"] if lengths else None,
            "images of a sequence": ", ".join(f"{n} (of {c:,})" for n, c in (lengths or {}).items()) or None,
            "people": people["count"] if people else None,
            "sequences of a person": "{min} to {max}, median {median:g}".format_map(people["examples_of_one"])
            if people
            else None,
            "left out": "; ".join(f"{c:,} {AMISS.get(k, k)}" for k, c in part["left_out"].items()) or None,
            "folders without images": ", ".join(part["empty_folders"]) or None,
        }
        rows += [[part["name"], name, value] for name, value in facts.items() if value is not None]
    return Table(title="data sets", header=["data set", "what", "value"], rows=rows)


def class_tables(figures: dict[str, Any]) -> list[Table]:
    """Counts and shares by class and split, a table a data set, and one of all where there are several."""
    return [_class_table(name, part) for name, part in parts_of(figures)]


def _class_table(name: str, part: dict[str, Any]) -> Table:
    splits = [split for split in part["n"] if split != "all" or len(part["n"]) > 2]
    header = ["class", *(text for split in splits for text in (split, f"{split}, share"))]
    rows: list[list[Value]] = [
        [text, *(part[key][text][split] for split in splits for key in ("counts", "shares"))]
        for text in part["counts"]
    ]
    rows.append(["all classes", *(v for split in splits for v in (part["n"][split], 1.0))])
    ratios = part["imbalance_ratio"]
    rows.append(["largest / smallest class", *(v for split in splits for v in (ratios[split], None))])
    return Table(title=name, header=header, rows=rows, shares=range(2, len(header), 2))


def count_rows(figures: dict[str, Any]) -> tuple[list[str], list[list[Value]]]:
    """The same for programs: a header, and a row for each data set, class and split."""
    return ["data", "class", "split", "count", "share"], [
        [name, text, split, count, part["shares"][text][split]]
        for name, part in parts_of(figures)
        for text, counts in part["counts"].items()
        for split, count in counts.items()
    ]


def duplicate_table(figures: dict[str, Any]) -> Table:
    """How many sets of identical images there are, of which kinds."""
    found = figures["duplicates"]
    splits = list(found["splits"])
    kinds = {"all": found, "in several splits": found["across_splits"]}
    if len(figures["data"]) > 1:
        kinds["in several data sets"] = found["across_data"]
    kinds["of several classes"] = found["contradictory"]
    rows: list[list[Value]] = [
        [name, its["sets"], its["images"], *(its["splits"][split] for split in splits)]
        for name, its in kinds.items()
    ]
    for split, its in found["within_split"].items():
        of_split = (its["images"] if other == split else None for other in splits)
        rows.append([f"several in {split}", its["sets"], its["images"], *of_split])
    rows += [
        [f"in {pair.replace(', ', ' and in ')}", sets, *[None] * (len(splits) + 1)]
        for pair, sets in found["across_splits"]["pairs"].items()
    ]
    header = ["pixel-identical images", "sets", "images", *(f"images of {split}" for split in splits)]
    return Table(title="duplicates", header=header, rows=rows)


def duplicate_list(figures: dict[str, Any], sets: int | None = None) -> Table:
    """The images of each set of identical ones, of the first so many sets; None is of all that are listed."""
    found = figures["duplicates"]
    listed = found["listed"][:sets]
    more = f", {len(listed):,} of {found['sets']:,}" if len(listed) < found["sets"] else ""
    rows = [
        [number, *(place[key] for key in ("data", "split", "class", "source"))]
        for number, places in enumerate(listed, 1)
        for place in places
    ]
    header = ["set", "data set", "split", "class", "where"]
    return Table(title=f"sets of identical images{more}", header=header, rows=rows)


def odd_table(figures: dict[str, Any]) -> Table:
    """How many images are blank or odd, and by which rule."""
    odd = figures["odd"]
    splits = [split for split in SPLITS if split in figures[TOGETHER]["n"]]
    rows: list[list[Value]] = [
        [kind, its["rule"], its["count"], *(its["splits"].get(split, 0) for split in splits)]
        for kind, its in odd.items()
    ]
    return Table(title="blank and odd images", header=["images", "rule", "all", *splits], rows=rows)


def odd_list(figures: dict[str, Any], most: int | None = None) -> Table:
    """The blank and odd images, so many of each kind; None is all that are listed."""
    most = LISTED if most is None else most
    keys = ("data", "split", "class", "source", "brightness", "contrast", "sharpness")
    rows = [
        [kind, *(place[key] for key in keys)]
        for kind, its in figures["odd"].items()
        for place in its["listed"][:most]
    ]
    more = f", at most {most:,} of a kind" if any(o["count"] > most for o in figures["odd"].values()) else ""
    header = ["images", "data set", "split", "class", "where", *keys[4:]]
    return Table(title=f"which they are, the oddest first{more}", header=header, rows=rows)


def spread_table(figures: dict[str, Any], name: str) -> Table:
    """The spread of brightness or of sharpness by class."""
    header = ["class", "images", "mean", "sd", *QUANTILES.values()]
    spreads = [*figures[name]["classes"].items(), ("all classes", figures[name]["all"])]
    rows = [[text, *spread.values()] for text, spread in spreads]
    return Table(title=name, header=header, rows=rows)


def training_table(figures: dict[str, Any]) -> Table:
    """What training makes of the data."""
    found = figures["training"]
    if "refused" in found:
        return Table(title="for training", header=["what", "why"], rows=[["refused", found["refused"]]])
    rows: list[list[Value]] = [["stills and sequences that it takes", found["n"]]]
    rows += [[text, found["splits"][split]] for split, text in TAKEN.items() if split in found["splits"]]
    rows += [[AMISS.get(reason, reason), count] for reason, count in found["amiss"].items()]
    return Table(title="for training", header=["what", "count"], rows=rows)
