"""AffectNet (Mollahosseini, Hasani, Mahoor 2017): the manually labelled faces."""

import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from fer_batch.data.folders import check_single_layout, read_numbered_folder
from fer_batch.data.images import (
    IMAGE_SUFFIXES,
    ImageRegion,
    ImageSource,
    LabelledExample,
    read_images,
    read_padded_image,
)
from fer_batch.errors import InputError
from fer_batch.storage.user_files import read_bounded
from fer_batch.storage.user_tables import read_csv_table

CLASSES = {
    0: "neutral", 1: "happy", 2: "sad", 3: "surprise", 4: "fear", 5: "disgust", 6: "angry", 7: "contempt"
}  # fmt: skip
UNUSED_CLASSES = {8: "none", 9: "uncertain", 10: "no_face"}
ALL_CLASSES = CLASSES | UNUSED_CLASSES
SET_SPLITS = {"train_set": "train", "val_set": "test"}
LIST_SPLITS = {"training.csv": "train", "validation.csv": "test"}
BOX_COLUMNS = ("face_x", "face_y", "face_width", "face_height")
COLUMNS = {
    "subDirectory_filePath": pa.string(),
    **dict.fromkeys(BOX_COLUMNS, pa.float64()),
    "expression": pa.int64(),
}
MAX_LIST_BYTES = 10**9
"""The original `training.csv` has 68 landmarks in each of its 414,799 lines."""
MAX_LABEL_BYTES = 4096
LAYOUTS = (
    "train_set/images/ and train_set/annotations/, or training.csv and Manually_Annotated_Images/, or "
    "train/0/ … train/7/ and val/0/ … val/7/"
)
LabelledSource = tuple[ImageSource, tuple[Path, str, str]]
"""An image with its path, its split and its class."""


def read_affectnet(option: str, path: Path, counts: Counter[str]) -> list[LabelledExample]:
    """Read AffectNet from one of its layouts.

    - `train_set/images/N.jpg` with the label in `train_set/annotations/N_exp.npy`, and `val_set/…`.
    - The original `training.csv` and `validation.csv` with `Manually_Annotated_Images/DIR/HASH.jpg`. The
      lists may be in `Manually_Annotated_file_lists/`, the images in `Manually_Annotated/`.
    - Folders of classes, as on Kaggle (`train/0/….jpg`, `val/happy/….jpg`).

    The validation part is the split "test", because the test part is not public. The labels "none",
    "uncertain" and "no face" are left out and counted. Images of the original are cut to their face boxes;
    images of the other layouts are such faces.

    Images without a label or without a face box are counted as "without_label" and "without_face_box". Raises
    InputError, which begins with `option`.
    """
    sets = [path / name for name in SET_SPLITS if (path / name).is_dir()]
    places = (path, path / "Manually_Annotated_file_lists")
    found = {name: place / name for place in places for name in LIST_SPLITS if (place / name).is_file()}
    lists = list(found.values())
    check_single_layout(option, path, ALL_CLASSES, [*sets[:1], *lists[:1]], LAYOUTS)
    if not sets and not lists:
        examples = read_numbered_folder(option, path, counts, ALL_CLASSES)
        counts.update(f"{row.label}_left_out" for row in examples if row.label in UNUSED_CLASSES.values())
        return [row for row in examples if row.label in CLASSES.values()]
    sources: list[LabelledSource] = []
    for folder in sets:
        sources += _list_set(option, folder, counts)
    for file in lists:
        sources += _list_file(option, path, file, counts)
    return [
        LabelledExample(images=image[None], label=label, split=split, source=str(file.relative_to(path)))
        for image, (file, split, label) in read_images(option, sources, counts, read_padded_image)
    ]


def _list_set(option: str, folder: Path, counts: Counter[str]) -> Iterator[LabelledSource]:
    """List the images of `train_set` or `val_set`."""
    if absent := [part for part in ("images", "annotations") if not (folder / part).is_dir()]:
        raise InputError(f"{option}: {folder.name} has no folder {absent[0]}; unpack the data set again")
    files = sorted(p for p in (folder / "images").iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    missing: list[Path] = []
    for file in files:
        label_file = folder / "annotations" / f"{file.stem}_exp.npy"
        number = _read_label(label_file)
        if number is None:
            missing.append(label_file)
        elif label := _find_class(f"{option}: {label_file}", number, counts):
            yield file, (file, SET_SPLITS[folder.name], label)
    if len(missing) > len(files) / 2:
        raise InputError(
            f"{option}: {len(missing)} of {len(files)} images of {folder.name} have no readable label, "
            f"for example {missing[0]}"
        )
    if missing:
        counts["without_label"] += len(missing)


def _read_label(file: Path) -> int | None:
    """Read the number of a class, which is stored as a number or as text; None if it cannot be read."""
    try:
        return int(np.load(io.BytesIO(read_bounded(file, MAX_LABEL_BYTES)), allow_pickle=False).item())
    except (OSError, ValueError, TypeError, EOFError, MemoryError, OverflowError):
        return None


def _list_file(option: str, path: Path, file: Path, counts: Counter[str]) -> Iterator[LabelledSource]:
    """List the face boxes of `training.csv` or `validation.csv`."""
    name = "Manually_Annotated_Images"
    folder = next((f for f in (path / name, path / "Manually_Annotated" / name) if f.is_dir()), None)
    if folder is None:
        raise InputError(f"{option}: there is no folder {name} for the images of {file.name}")
    try:
        table = read_csv_table(file, COLUMNS, tuple(COLUMNS), MAX_LIST_BYTES)
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"{option}: {file.name}: expected a CSV with the columns {', '.join(COLUMNS)}: {reason}"
        ) from error
    images, *sides, expressions = (table[column].to_pylist() for column in COLUMNS)
    rows = zip(images, expressions, *sides, strict=True)
    for line, (image, expression, x, y, width, height) in enumerate(rows, start=2):
        label = _find_class(f"{option}: {file.name}: line {line}", expression, counts)
        if not label:
            continue
        box = np.array([x, y, x, y], float) + np.array([0, 0, width, height], float)
        if not np.isfinite(box).all() or width <= 0 or height <= 0:
            counts["without_face_box"] += 1
            continue
        image_path = folder / (image or "").lstrip("/")  # an absolute path would leave the folder
        region = ImageRegion(image_path, tuple(box.tolist()))
        yield region, (image_path, LIST_SPLITS[file.name], label)


def _find_class(place: str, number: int | None, counts: Counter[str]) -> str | None:
    """Return the class of a label; counts a label without an emotion and returns None.

    Raises InputError, which begins with `place`, for a number out of range.
    """
    if number not in ALL_CLASSES:
        raise InputError(f"{place}: expected an expression of 0–{max(ALL_CLASSES)}, found {number}")
    if number in CLASSES:
        return CLASSES[number]
    counts[f"{UNUSED_CLASSES[number]}_left_out"] += 1
    return None
