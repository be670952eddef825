"""Labelled images from files, bytes and Parquet tables, decoded to grey 48×48 pixels."""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from PIL import Image

from fer_batch.errors import InputError
from fer_batch.storage.user_tables import list_parquet_columns, read_parquet_table
from fer_batch.vision.images import load_image, scale_to_crop

IMAGE_SUFFIXES = frozenset(
    [".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"]
)
MAX_LISTED_NAMES = 8
MAX_TABLE_BYTES = 16 * 10**9
IMAGES_PER_BATCH = 1024
"""Images that the decoding threads take together, to limit the files in memory."""
Metadata = TypeVar("Metadata")


@dataclass(frozen=True)
class ImageRegion:
    """A part of an image in a file."""

    path: Path
    box: tuple[float, float, float, float]
    """Left, top, right and bottom in pixels. It may reach beyond the image, but not lie outside it."""

    def __str__(self) -> str:
        return str(self.path)


ImageSource = Path | bytes | ImageRegion


@dataclass(frozen=True, kw_only=True)
class LabelledExample:
    """A still or a sequence of a data set."""

    images: np.ndarray
    """`(T, 48, 48) uint8` grey, T from 1."""
    label: str
    """Normalized name of the class."""
    split: str = ""
    """"train", "select" or "test"; "" if the data set has no splits."""
    subject: str = ""
    """The person in the images, "" if unknown."""
    votes: Mapping[str, int] | None = None
    """Number of annotators that chose each class, by normalized name."""
    dataset: str = ""
    """Name of the data set, as `--data NAME=PATH` gives it."""
    source: str = ""
    """Position in the data set: a path in a folder, "row 0" of a table, "line 2" of a CSV, or a sequence."""


def read_images(
    option: str,
    sources: Iterable[tuple[ImageSource, Metadata]],
    counts: Counter[str],
    read: Callable[[ImageSource], np.ndarray | None] | None = None,
) -> list[tuple[np.ndarray, Metadata]]:
    """Decode images to `(48, 48) uint8` in threads, and return each with its metadata, in order.

    `read` decodes one image, by default `read_image`. Images for which it returns None are left out and
    counted as "unreadable". Raises InputError, which begins with `option`, if they are more than half.
    """
    images: list[tuple[np.ndarray, Metadata]] = []
    unreadable: list[ImageSource] = []
    for image, source, metadata in _decode(sources, read or read_image):
        if image is None:
            unreadable.append(source)
        else:
            images.append((image, metadata))
    if len(unreadable) > len(images):
        example = "" if isinstance(unreadable[0], bytes) else f", for example {unreadable[0]}"
        raise InputError(
            f"{option}: cannot read {len(unreadable)} of {len(unreadable) + len(images)} images{example}. "
            "Download the data set again, or remove the broken images"
        )
    if unreadable:
        counts["unreadable"] += len(unreadable)
    return images


def read_image(source: ImageSource) -> np.ndarray | None:
    """Decode an image to `(48, 48) uint8` grey, upright; returns None if it cannot be read."""
    image = open_image(source, "L")
    return None if image is None else scale_to_crop(image)


def read_padded_image(source: ImageSource) -> np.ndarray | None:
    """Decode an image to `(48, 48) uint8` grey without changing its proportions.

    The shorter side is extended by its border pixels. Returns None if the image cannot be read.
    """
    image = open_image(source, "L")
    if image is None:
        return None
    pixels = np.asarray(image)
    missing = max(pixels.shape) - np.array(pixels.shape)
    padded = np.pad(pixels, [(side // 2, side - side // 2) for side in missing.tolist()], "edge")
    return scale_to_crop(Image.fromarray(padded))


def open_image(source: ImageSource, mode: str) -> Image.Image | None:
    """Decode an image, upright, in Pillow's mode "L" or "RGB".

    Returns None if it cannot be read, or if no pixel of the image is in its region.
    """
    try:
        if not isinstance(source, ImageRegion):
            return load_image(source, mode)
        image = load_image(source.path, mode)
    except InputError:
        return None
    left, top, right, bottom = (round(side) for side in source.box)
    inside = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    return image.crop(inside) if inside[0] < inside[2] and inside[1] < inside[3] else None


def read_image_table(option: str, path: Path, columns: list[str]) -> pa.Table:
    """Read columns of a Parquet file, among them `image_png` or `image_jpeg`, which must hold bytes.

    Columns of votes, which begin with "fp_", are read as well. Raises InputError, which begins with `option`,
    if the file cannot be read or a column is missing.
    """
    expected = f"expected a Parquet file with the columns {', '.join(columns)}"
    try:
        names = list_parquet_columns(path)
        if missing := [c for c in columns if c not in names]:
            raise InputError(
                f"{option}: no column {', '.join(missing)}; {expected}, found {shorten_list(names)}"
            )
        votes = [name for name in names if name.startswith("fp_")]
        table = read_parquet_table(path, [*columns, *votes], MAX_TABLE_BYTES)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{option}: cannot read the file ({reason}); {expected}") from error
    column = next(name for name in columns if name.startswith("image_"))
    kind = table.schema.field(column).type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        suffix = column.removeprefix("image_").upper()
        raise InputError(
            f"{option}: the column {column} must hold the bytes of {suffix} images, but is {kind}"
        )
    return table


def shorten_list(names: Iterable[str]) -> str:
    """Join at most `MAX_LISTED_NAMES` names with commas."""
    listed = list(names)
    return ", ".join(listed[:MAX_LISTED_NAMES]) + (" …" if len(listed) > MAX_LISTED_NAMES else "")


def _decode(
    sources: Iterable[tuple[ImageSource, Metadata]], read: Callable[[ImageSource], np.ndarray | None]
) -> Iterator[tuple[np.ndarray | None, ImageSource, Metadata]]:
    """Yield each decoded image with its source and metadata; Pillow decodes without Python's lock."""
    remaining = iter(sources)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        while batch := list(itertools.islice(remaining, IMAGES_PER_BATCH)):
            decoded = pool.map(read, [source for source, _ in batch])
            for image, (source, metadata) in zip(decoded, batch, strict=True):
                yield image, source, metadata
