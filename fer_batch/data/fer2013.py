"""FER2013 (Goodfellow et al. 2013) in the layouts that people have it in, with the votes of FER+ (Barsoum et
al. 2016) where they are.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from fer_batch.data.images import IMAGE_SUFFIXES, SIZE, Labelled, class_files, read_all, read_columns
from fer_batch.data.labels import SPLITS, canonical
from fer_batch.errors import InputError

FER_ORDER = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""The classes by the numbers of the original CSV."""
VOTED = (
    "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF"
)  # fmt: skip
"""The columns of FER+ (`fer2013new.csv`); in Parquet with `fp_` before them."""


def read_fer2013(option: str, path: Path, counts: Counter[str]) -> list[Labelled]:
    """A Parquet file (`image_png`, `label_name`, `usage`, perhaps `fp_neutral` …), the original CSV
    (`emotion,pixels,Usage`, perhaps with FER+'s `fer2013new.csv` in the same folder) or Kaggle's folders
    (`train/angry/….png`, `test/…`). Raises InputError that begins with `option`.
    """
    if path.is_dir():
        files = class_files(option, path, IMAGE_SUFFIXES, counts)
        return [
            Labelled(
                images=image[None],
                label=canonical(file.label),
                split=file.split or "train",
                source=str(file.path.relative_to(path)),
            )
            for image, file in read_all(option, ((file.path, file) for file in files), counts)
        ]
    if path.suffix == ".parquet":
        return _parquet(option, path, counts)
    if path.suffix == ".csv":
        return list(_csv(option, path))
    raise InputError(f"{option}: allowed are a .parquet file, a .csv file or a folder of splits")


def _parquet(option: str, path: Path, counts: Counter[str]) -> list[Labelled]:
    table = read_columns(option, path, ["image_png", "label_name", "usage"])
    labels, usages = (table.column(name).to_pylist() for name in ("label_name", "usage"))
    votes = _votes(
        option, table.select([c for c in table.column_names if c.startswith("fp_")]), "fp_", len(table)
    )
    pngs = (png or b"" for png in table.column("image_png").to_pylist())
    return [
        Labelled(
            images=image[None],
            label=canonical(labels[i]),
            split=_split(option, usages[i]),
            votes=votes[i],
            source=f"row {i}",
        )
        for image, i in read_all(option, ((png, i) for i, png in enumerate(pngs)), counts)
    ]


def _csv(option: str, path: Path) -> Iterator[Labelled]:
    table = _read_csv(option, path, ("emotion", "pixels", "Usage"))
    emotions, pixels, usages = (table[c].to_pylist() for c in ("emotion", "pixels", "Usage"))
    votes: list[Mapping[str, int] | None] = [None] * len(table)
    if (voted := path.with_name("fer2013new.csv")).exists() and voted != path:
        fer_plus = _read_csv(f"{option}: {voted}", voted, ("Usage", *VOTED))
        if fer_plus["Usage"].to_pylist() != usages:
            raise InputError(
                f"{option}: {voted} has other rows ({len(fer_plus)}, here {len(table)}) or another order of "
                "Usage; FER+'s file has a row for each row of fer2013.csv: get the right one or remove it"
            )
        votes = _votes(option, fer_plus.select(VOTED), "", len(table))
    for row, (emotion, text, usage) in enumerate(zip(emotions, pixels, usages, strict=True)):
        try:
            values = np.array(str(text).split(), np.int64)
            if values.size != SIZE * SIZE or values.min() < 0 or values.max() > 255:
                raise ValueError("pixels")
            label = FER_ORDER[range(len(FER_ORDER)).index(emotion)]
        except (ValueError, OverflowError):
            raise InputError(
                f"{option}: line {row + 2}: expected an emotion of 0–6 and {SIZE * SIZE} pixels of 0–255, "
                f"found {emotion!r} and {len(str(text).split())} pixels"
            ) from None
        image = values.reshape(1, SIZE, SIZE).astype(np.uint8)
        split = _split(option, usage)
        yield Labelled(images=image, label=label, split=split, votes=votes[row], source=f"line {row + 2}")


def _read_csv(option: str, path: Path, columns: tuple[str, ...]) -> pa.Table:
    try:
        return pa.csv.read_csv(path).select(columns)
    except (pa.ArrowException, KeyError, OSError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"{option}: expected is a CSV with the columns {', '.join(columns)}: {reason}"
        ) from error


def _votes(option: str, table: pa.Table, prefix: str, rows: int) -> list[Mapping[str, int] | None]:
    """Votes by canonical class name, None for rows that have none; a negative number says unknown."""
    if not table.num_columns:
        return [None] * rows
    names = [canonical(name.removeprefix(prefix)) for name in table.column_names]
    try:
        columns = [column.cast(pa.int64()).fill_null(-1).to_numpy() for column in table.columns]
    except pa.ArrowException as error:
        raise InputError(f"{option}: the votes ({', '.join(table.column_names)}) are not numbers") from error
    values = np.stack(columns, axis=1)  # (rows, names)
    known = (values >= 0).all(axis=1) & (values.sum(axis=1) > 0)
    return [
        dict(zip(names, row, strict=True)) if k else None
        for row, k in zip(values.tolist(), known, strict=True)
    ]


def _split(option: str, usage: object) -> str:
    split = SPLITS.get(str(usage).strip().lower())
    if split is None:
        raise InputError(
            f"{option}: has the split {usage!r}; allowed are Training, PublicTest and PrivateTest"
        )
    return split
