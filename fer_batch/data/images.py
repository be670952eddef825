"""Labelled images as they stand in files, folders and Parquet tables, read to grey 48×48."""

import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps, UnidentifiedImageError

from fer_batch.data.labels import SPLITS
from fer_batch.errors import InputError

SIZE = 48
IMAGE_SUFFIXES = frozenset(
    [".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"]
)
Facts = TypeVar("Facts")


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A still or a sequence as its data set has it."""

    images: np.ndarray
    """`(T, 48, 48) uint8` grey, T from 1."""
    label: str
    """Canonical name of its class."""
    split: str = ""
    """"train", "select" or "test"; "" where the data set doesn't say."""
    subject: str = ""
    votes: Mapping[str, int] | None = None
    """How many annotators chose each class, by its canonical name."""
    source: str = ""
    """Where its data set has it: a path in a folder, "row 0" of a table, "line 2" of a CSV, or a sequence."""


@dataclass(frozen=True, kw_only=True)
class ClassFile:
    """A file in a folder of classes."""

    path: Path
    label: str
    """Name of its class folder, as it is written there."""
    split: str
    """"train", "select", "test", or "" where there are no split folders."""


def class_files(option: str, folder: Path, suffixes: Iterable[str], counts: Counter[str]) -> list[ClassFile]:
    """The files of `class/…` or `split/class/…` with one of `suffixes`, at any depth, in order of their path.

    Split folders are those whose names are in `SPLITS`; they stand in `folder` or in the one folder in it.
    Hidden folders are passed over. Files that stand in no class folder are counted as "without_class". Raises
    InputError, that begins with `option`, where there is no such folder or no such file, where a split folder
    is empty, and where class folders stand beside split folders.
    """
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"{option}: {kind}; give a folder that holds a folder for each class")
    wanted = frozenset(suffixes)
    base = folder
    if not _split_folders(base) and len(inside := _folders(base)) == 1 and _split_folders(inside[0]):
        base = inside[0]
    splits = _split_folders(base)
    found: list[ClassFile] = []
    others: set[str] = set()
    filled: set[Path] = set()
    for path in sorted(base.rglob("*")):
        parts = path.relative_to(base).parts
        if path.suffix.lower() not in wanted or any(_hidden(part) for part in parts) or not path.is_file():
            continue
        split = SPLITS[parts[0].lower()] if splits and base / parts[0] in splits else ""
        if len(parts) < (3 if split else 2):
            counts["without_class"] += 1
        elif splits and not split:
            others.add(parts[0])
        else:
            found.append(ClassFile(path=path, label=parts[1 if split else 0], split=split))
            filled.add(base / parts[0])
    if others:
        raise InputError(
            f"{option}: holds both split folders ({_names(s.name for s in splits)}) and others "
            f"({_names(sorted(others))}); put the class folders into the split folders"
        )
    if not found:
        raise InputError(
            f"{option}: no files like {', '.join(sorted(wanted)[:4])} … in class folders there "
            f"({counts['without_class']} in none); expected are folders named by class, such as happy/"
        )
    if empty := [s.name for s in splits if s not in filled]:
        raise InputError(
            f"{option}: the split folder {empty[0]} is empty; fill it with class folders or remove it"
        )
    return found


def read_all(
    option: str, sources: Iterable[tuple[Path | bytes, Facts]], counts: Counter[str]
) -> list[tuple[np.ndarray, Facts]]:
    """Images, `(48, 48) uint8`, each with what is known of it. Those that can't be read are left out and
    counted as "unreadable"; more than half of them raise InputError.
    """
    read: list[tuple[np.ndarray, Facts]] = []
    bad: list[Path | bytes] = []
    for source, facts in sources:
        image = read_image(source)
        if image is None:
            bad.append(source)
        else:
            read.append((image, facts))
    if len(bad) > len(read):
        example = f", such as {bad[0]}" if isinstance(bad[0], Path) else ""
        raise InputError(
            f"{option}: {len(bad)} of {len(bad) + len(read)} images can't be read{example}; "
            "get the data set anew or leave the broken ones out"
        )
    if bad:
        counts["unreadable"] += len(bad)
    return read


def read_image(source: Path | bytes) -> np.ndarray | None:
    """An image of any size, depth and colour to `(48, 48) uint8` grey, upright; None if it can't be read."""
    image = open_image(source, "L")
    if image is None:
        return None
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def open_image(source: Path | bytes, mode: str) -> Image.Image | None:
    """An image of any depth and colour, upright, as Pillow's "L" or "RGB"; None if it can't be read."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode in ("I;16", "I;16B", "I;16L", "I"):  # 16 bits: Pillow itself would cut off at 255
                image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
            return image.convert(mode)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError):
        return None


def read_columns(option: str, path: Path, columns: list[str], optional: str = "fp_") -> pa.Table:
    """These columns of a Parquet file, and those whose names begin with `optional`; `image_png` is bytes."""
    expected = f"expected is a Parquet file with the columns {', '.join(columns)}"
    try:
        names = pq.read_schema(path).names
        if missing := [c for c in columns if c not in names]:
            raise InputError(f"{option}: has no column {', '.join(missing)}, but {_names(names)}; {expected}")
        table = pq.read_table(path, columns=[*columns, *(n for n in names if n.startswith(optional))])
    except (pa.ArrowException, OSError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"{option}: can't be read ({reason}); {expected}, whole and not cut short"
        ) from error
    kind = table.schema.field("image_png").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise InputError(f"{option}: the column image_png is {kind}; expected are the bytes of PNG images")
    return table


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not _hidden(p.name))


def _split_folders(folder: Path) -> list[Path]:
    return [p for p in _folders(folder) if p.name.lower() in SPLITS]


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:8]) + (" …" if len(listed) > 8 else "")
