"""CK+48: the last three frames of each labelled sequence of CK+ (Lucey et al. 2010), 48×48 pixels."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fer_batch.data.folders import list_class_files
from fer_batch.data.images import IMAGE_SUFFIXES, LabelledExample, read_image_table, read_images
from fer_batch.data.labels import normalize_label
from fer_batch.errors import InputError

COLUMNS = ["sequence", "frame", "label_name", "image_png"]
FrameName = tuple[str, int, str]
"""Sequence, frame number and label of an image."""


def read_ck48(option: str, path: Path, counts: Counter[str]) -> list[LabelledExample]:
    """Read CK+48 from a Parquet file with `COLUMNS`, or from folders (`anger/S010_004_00000017.png`).

    Returns the sequences sorted by name, with their frames sorted by number. The subject is the part of the
    sequence's name before the first "_". Raises InputError, which begins with `option`.
    """
    sources: Iterable[tuple[Path | bytes, FrameName]]
    if path.is_dir():
        files = list_class_files(option, path, IMAGE_SUFFIXES, counts)
        sources = [(file.path, _parse_name(option, file.path, file.label)) for file in files]
    elif path.suffix == ".parquet":
        sources = _read_rows(option, path)
    else:
        raise InputError(f"{option}: give a .parquet file, or a folder with a subfolder for each class")
    sequences: dict[tuple[str, str], list[tuple[int, np.ndarray]]] = {}
    for image, (sequence, number, label) in read_images(option, sources, counts):
        sequences.setdefault((sequence, label), []).append((number, image))
    return [
        LabelledExample(
            images=np.stack([image for _, image in sorted(frames, key=lambda frame: frame[0])]),
            label=label,
            subject=sequence.split("_")[0],
            source=sequence,
        )
        for (sequence, label), frames in sorted(sequences.items(), key=lambda item: item[0])
    ]


def _parse_name(option: str, file: Path, label: str) -> FrameName:
    match = re.fullmatch(r"(S\d+_\d+)_(\d+)", file.stem)
    if match is None:
        raise InputError(
            f"{option}: cannot read the name of {file}; files of CK+48 are named like "
            "S010_004_00000017.png (subject_sequence_frame)"
        )
    return match[1], int(match[2]), normalize_label(label)


def _read_rows(option: str, path: Path) -> list[tuple[Path | bytes, FrameName]]:
    table = read_image_table(option, path, COLUMNS)
    rows: list[tuple[Path | bytes, FrameName]] = []
    for sequence, frame, label, png in zip(*(table[c].to_pylist() for c in COLUMNS), strict=True):
        if not isinstance(sequence, str) or not isinstance(frame, int):
            raise InputError(
                f"{option}: sequence and frame must be a name such as 'S010_004' and a whole number, "
                f"got {sequence!r} and {frame!r}"
            )
        rows.append((png or b"", (sequence, frame, normalize_label(label))))
    return rows
