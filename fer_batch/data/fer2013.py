"""FER2013 (Goodfellow et al. 2013) in its common layouts, with the votes of FER+ (Barsoum et al. 2016)."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from fer_batch.config import CROP_SIZE_PX
from fer_batch.data.folders import read_folder
from fer_batch.data.images import LabelledExample, read_image_table, read_images
from fer_batch.data.labels import SPLIT_SYNONYMS, normalize_label
from fer_batch.errors import InputError
from fer_batch.storage.user_tables import read_csv_table

CSV_CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""The classes by their numbers in the original CSV."""
VOTE_COLUMNS = (
    "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF"
)  # fmt: skip
"""Columns of FER+ (`fer2013new.csv`). In Parquet files their names have the prefix `fp_`."""
Votes = Mapping[str, int] | None
"""Number of annotators by normalized class name; None if unknown."""


def read_fer2013(option: str, path: Path, counts: Counter[str]) -> list[LabelledExample]:
    """Read FER2013 from one of its layouts.

    - A Parquet file with `image_png`, `label_name` and `usage`, and optionally `fp_neutral` ….
    - The original CSV (`emotion,pixels,Usage`), optionally with `fer2013new.csv` of FER+ beside it.
    - Folders as on Kaggle (`train/angry/….png`, `test/…`).

    Raises InputError, which begins with `option`.
    """
    if path.is_dir():
        return read_folder(option, path, counts, default_split="train")
    if path.suffix == ".parquet":
        return _read_parquet(option, path, counts)
    if path.suffix == ".csv":
        return _read_pixels(option, path)
    raise InputError(f"{option}: give a .parquet file, a .csv file or a folder of splits")


def _read_parquet(option: str, path: Path, counts: Counter[str]) -> list[LabelledExample]:
    table = read_image_table(option, path, ["image_png", "label_name", "usage"])
    labels, usages = (table.column(name).to_pylist() for name in ("label_name", "usage"))
    votes = _parse_votes(option, table.select([c for c in table.column_names if c.startswith("fp_")]))
    pngs = (png or b"" for png in table.column("image_png").to_pylist())
    return [
        LabelledExample(
            images=image[None],
            label=normalize_label(labels[i]),
            split=_parse_split(option, usages[i]),
            votes=votes[i] if votes else None,
            source=f"row {i}",
        )
        for image, i in read_images(option, ((png, i) for i, png in enumerate(pngs)), counts)
    ]


def _read_pixels(option: str, path: Path) -> list[LabelledExample]:
    table = _read_csv(option, path, ("emotion", "pixels", "Usage"))
    emotions, pixels, usages = (table[c].to_pylist() for c in ("emotion", "pixels", "Usage"))
    votes = _read_fer_plus(option, path, usages)
    examples = []
    for row, (emotion, text, usage) in enumerate(zip(emotions, pixels, usages, strict=True)):
        line = row + 2
        try:
            values = np.array(str(text).split(), np.int64)
            if values.size != CROP_SIZE_PX * CROP_SIZE_PX or values.min() < 0 or values.max() > 255:
                raise ValueError("pixels")
            label = CSV_CLASSES[range(len(CSV_CLASSES)).index(emotion)]
        except (ValueError, OverflowError):
            raise InputError(
                f"{option}: line {line}: expected an emotion of 0–6 and {CROP_SIZE_PX**2} pixels of "
                f"0–255, found {emotion!r} and {len(str(text).split())} pixels"
            ) from None
        examples.append(
            LabelledExample(
                images=values.reshape(1, CROP_SIZE_PX, CROP_SIZE_PX).astype(np.uint8),
                label=label,
                split=_parse_split(option, usage),
                votes=votes[row] if votes else None,
                source=f"line {line}",
            )
        )
    return examples


def _read_fer_plus(option: str, path: Path, usages: list[object]) -> list[Votes] | None:
    """Read `fer2013new.csv` beside the original CSV; returns None if there is none."""
    file = path.with_name("fer2013new.csv")
    if not file.exists() or file == path:
        return None
    table = _read_csv(f"{option}: {file}", file, ("Usage", *VOTE_COLUMNS))
    if table["Usage"].to_pylist() != usages:
        raise InputError(
            f"{option}: the Usage column of {file} differs ({len(table)} rows, expected {len(usages)}). "
            "Use the file of FER+ with the same rows in the same order, or remove it"
        )
    return _parse_votes(option, table.select(VOTE_COLUMNS))


def _read_csv(option: str, path: Path, columns: tuple[str, ...]) -> pa.Table:
    try:
        return read_csv_table(path).select(columns)
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"{option}: expected a CSV with the columns {', '.join(columns)}: {reason}"
        ) from error


def _parse_votes(option: str, table: pa.Table) -> list[Votes] | None:
    """Return the votes of each row; None without columns. A row with a negative number has no votes."""
    if not table.num_columns:
        return None
    names = [normalize_label(name.removeprefix("fp_")) for name in table.column_names]
    try:
        columns = [column.cast(pa.int64()).fill_null(-1).to_numpy() for column in table.columns]
    except pa.ArrowException as error:
        raise InputError(f"{option}: the votes ({', '.join(table.column_names)}) are not numbers") from error
    values = np.stack(columns, axis=1)  # (rows, names)
    valid = (values >= 0).all(axis=1) & (values.sum(axis=1) > 0)
    return [
        dict(zip(names, row, strict=True)) if is_valid else None
        for row, is_valid in zip(values.tolist(), valid, strict=True)
    ]


def _parse_split(option: str, usage: object) -> str:
    split = SPLIT_SYNONYMS.get(str(usage).strip().lower())
    if split is None:
        raise InputError(
            f"{option}: unknown split {usage!r}; allowed are Training, PublicTest and PrivateTest"
        )
    return split
