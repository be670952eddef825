"""The labelled images of data sets, unchanged, with a table of facts and measures of each image."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fer_batch.data.datasets import READERS
from fer_batch.data.images import IMAGE_SUFFIXES
from fer_batch.schema import EMOTIONS
from fer_batch.vision.quality import measure_sharpness

SPLITS = ("train", "select", "test")
"""In display order; "select" is FER2013's PublicTest."""
MEASURES = ("brightness", "contrast", "sharpness")
IMAGES_PER_BLOCK = 2048
"""Images that are measured together. Each intermediate array takes 20 MB."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One data set, and the parts of it that could not be used."""

    name: str
    """The name of the data set, unique among all."""
    path: str
    left_out: dict[str, int]
    """Numbers of images that could not be used, by reason."""
    empty_folders: list[str]
    """Folders that hold neither an image nor a folder."""


@dataclass(frozen=True, kw_only=True)
class LabelledFaces:
    """All examples of several data sets. An example is a still or a sequence."""

    pixels: np.ndarray
    """`(M, 48, 48) uint8` grey, as training uses them, in the order of the table."""
    table: pd.DataFrame
    """A row for each image: `example` (number), `data`, `split` (of `SPLITS`), `class`, `subject` ("" if
    unknown), `source` (its place in the data set), `brightness` (mean grey, 0 to 255), `contrast` (standard
    deviation of grey) and `sharpness` (see `vision.quality.measure_sharpness`)."""
    sources: tuple[Source, ...]
    classes: tuple[str, ...]
    """The classes that occur: emotions in the project's order, then others by name."""

    @property
    def splits(self) -> list[str]:
        """The splits that occur, in display order."""
        present = set(self.table["split"])
        return [split for split in SPLITS if split in present]


def read_faces(
    data: Sequence[tuple[str, str]], on_line: Callable[[str], None] = lambda line: None
) -> LabelledFaces:
    """Read data sets, (name, path) each, which `load_datasets` accepts. Only unreadable images are left out.

    An example without a split is in "train". `on_line` is called with a line for each data set.
    """
    sources: list[Source] = []
    pixels: list[np.ndarray] = []
    rows: list[dict[str, str | int]] = []
    number = -1
    for name, (reader, path) in zip(_number_names(data), data, strict=True):
        counts: Counter[str] = Counter()
        examples = READERS[reader](f"--data {reader}={path}", Path(path), counts)
        for example in examples:
            number += 1
            length = len(example.images)
            pixels.append(example.images)
            for position in range(1, length + 1):
                place = f", image {position} of {length}" if length > 1 else ""
                rows.append(
                    {
                        "example": number,
                        "data": name,
                        "split": example.split or "train",
                        "class": _make_writable(example.label),
                        "subject": example.subject,
                        "source": _make_writable(example.source) + place,
                    }
                )
        left_out = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        images = sum(len(example.images) for example in examples)
        on_line(f"{name}: {images:,} images" + (f" (left out: {left_out})" if left_out else ""))
        sources.append(
            Source(
                name=name,
                path=_make_writable(path),
                left_out=dict(counts),
                empty_folders=_find_empty_folders(Path(path)),
            )
        )
    faces, table = np.concatenate(pixels), pd.DataFrame(rows)
    present = set(table["class"])
    return LabelledFaces(
        pixels=faces,
        table=table.assign(**measure_images(faces)),
        sources=tuple(sources),
        classes=(*(e for e in EMOTIONS if e in present), *sorted(present - set(EMOTIONS))),
    )


def measure_images(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return each of `MEASURES`, `(M,) float64`, of `(M, 48, 48) uint8` images."""
    blocks = [images[start : start + IMAGES_PER_BLOCK] for start in range(0, len(images), IMAGES_PER_BLOCK)]
    return {
        "brightness": np.concatenate([block.mean(axis=(1, 2)) for block in blocks]),
        "contrast": np.concatenate([block.std(axis=(1, 2)) for block in blocks]),
        "sharpness": np.concatenate([measure_sharpness(block).astype(np.float64) for block in blocks]),
    }


def _number_names(data: Sequence[tuple[str, str]]) -> list[str]:
    """Return unique names: "folder", "folder 2"."""
    names = pd.Series([name for name, _ in data], dtype=object)
    numbers = names.groupby(names).cumcount() + 1
    return [f"{name} {number}" if number > 1 else name for name, number in zip(names, numbers, strict=True)]


def _find_empty_folders(path: Path) -> list[str]:
    return sorted(
        _make_writable(str(Path(folder).relative_to(path)))
        for folder, folders, files in os.walk(path)
        if not folders
        and not any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in files)
        and not any(part.startswith((".", "__MACOSX")) for part in Path(folder).relative_to(path).parts)
    )


def _make_writable(text: str) -> str:
    """Escape bytes of file names that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
