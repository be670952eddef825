"""CK+48: the last three frames of each labelled sequence of CK+ (Lucey et al. 2010), 48×48."""

import re
from collections import Counter
from pathlib import Path

import numpy as np

from fer_batch.data.images import IMAGE_SUFFIXES, Labelled, class_files, read_all, read_columns
from fer_batch.data.labels import canonical
from fer_batch.errors import InputError


def read_ck48(option: str, path: Path, counts: Counter[str]) -> list[Labelled]:
    """A Parquet file (`image_png`, `label_name`, `sequence`, `frame`) or folders
    (`anger/S010_004_00000017.png`) to sequences in order of their name, frames in order of their number.
    The subject is what stands before the first _ of a sequence's name. Raises InputError that begins with
    `option`.
    """
    if path.is_dir():
        named = []
        for file in class_files(option, path, IMAGE_SUFFIXES, counts):
            match = re.fullmatch(r"(S\d+_\d+)_(\d+)", file.path.stem)
            if match is None:
                raise InputError(
                    f"{option}: {file.path}: CK+48 files are named like S010_004_00000017.png "
                    "(subject_sequence_frame)"
                )
            named.append((file.path, (match[1], int(match[2]), canonical(file.label))))
        frames = read_all(option, named, counts)
    elif path.suffix == ".parquet":
        table = read_columns(option, path, ["sequence", "frame", "label_name", "image_png"])
        columns = (table[c].to_pylist() for c in ("sequence", "frame", "label_name", "image_png"))
        rows = list(zip(*columns, strict=True))
        if broken := next(
            (row for row in rows if not isinstance(row[0], str) or not isinstance(row[1], int)), None
        ):
            raise InputError(
                f"{option}: has the sequence {broken[0]!r} with frame {broken[1]!r}; "
                "expected are names such as 'S010_004' and whole numbers"
            )
        frames = read_all(
            option, ((png or b"", (s, f, canonical(label))) for s, f, label, png in rows), counts
        )
    else:
        raise InputError(f"{option}: allowed are a .parquet file or a folder of classes")
    sequences: dict[tuple[str, str], list[tuple[int, np.ndarray]]] = {}
    for image, (sequence, number, label) in frames:
        sequences.setdefault((sequence, label), []).append((number, image))
    return [
        Labelled(
            images=np.stack([image for _, image in sorted(sequences[key], key=lambda frame: frame[0])]),
            label=key[1],
            subject=key[0].split("_")[0],
            source=key[0],
        )
        for key in sorted(sequences)
    ]
