"""Anybody's own images: a folder for each class."""

from collections import Counter
from pathlib import Path

from fer_batch.data.images import IMAGE_SUFFIXES, Labelled, class_files, read_all
from fer_batch.data.labels import canonical


def read_folder(option: str, path: Path, counts: Counter[str]) -> list[Labelled]:
    """`class/…images` or `train/class/…images`, `val/…`, `test/…`, at any depth and of any size and colour.

    The images should be faces cut as the pipeline cuts them: squares of about the face box's height. Raises
    InputError that begins with `option`.
    """
    files = class_files(option, path, IMAGE_SUFFIXES, counts)
    return [
        Labelled(
            images=image[None],
            label=canonical(file.label),
            split=file.split,
            source=str(file.path.relative_to(path)),
        )
        for image, file in read_all(option, ((file.path, file) for file in files), counts)
    ]
