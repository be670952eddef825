"""Faces of LFW and IMFDB with the labels of muxspace/facial_expressions, as a Parquet file."""

import dataclasses
from collections import Counter
from pathlib import Path

from fer_batch.data.images import LabelledExample, read_image_table, read_images, read_padded_image
from fer_batch.data.labels import normalize_label
from fer_batch.data.splits import choose_held_out
from fer_batch.errors import InputError

COLUMNS = ["image_jpeg", "label_name", "subject"]


def read_muxspace(option: str, path: Path, counts: Counter[str]) -> list[LabelledExample]:
    """Read a Parquet file with `COLUMNS`.

    The images of 1 in 5 people, chosen by the hash of the name, are the split "test", so that the people are
    unknown to any model that is trained on the others. An image without a subject counts as a person.

    The squares of LFW have the framing of FER2013. The stills of IMFDB are face boxes, mostly taller than
    wide, and are padded to squares; their height fits that framing.

    Raises InputError, which begins with `option`.
    """
    if path.suffix != ".parquet" or path.is_dir():
        raise InputError(f"{option}: give a .parquet file with the columns {', '.join(COLUMNS)}")
    table = read_image_table(option, path, COLUMNS)
    labels, subjects = (table.column(name).to_pylist() for name in ("label_name", "subject"))
    jpegs = (jpeg or b"" for jpeg in table.column("image_jpeg").to_pylist())
    examples = [
        LabelledExample(
            images=image[None],
            label=normalize_label(labels[row]),
            subject=str(subjects[row] or ""),
            source=f"row {row}",
        )
        for image, row in read_images(
            option, ((jpeg, row) for row, jpeg in enumerate(jpegs)), counts, read_padded_image
        )
    ]
    held_out = choose_held_out([example.subject or example.source for example in examples], "test")
    return [
        dataclasses.replace(example, split="test") if is_test else example
        for example, is_test in zip(examples, held_out, strict=True)
    ]
