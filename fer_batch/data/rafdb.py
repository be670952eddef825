"""RAF-DB (Li, Deng, Du 2017): the aligned faces of the basic emotions."""

import re
from collections import Counter
from pathlib import Path

from fer_batch.data.folders import check_single_layout, read_numbered_folder
from fer_batch.data.images import LabelledExample, read_images, read_padded_image
from fer_batch.errors import InputError
from fer_batch.storage.user_files import read_bounded

CLASSES = {1: "surprise", 2: "fear", 3: "disgust", 4: "happy", 5: "sad", 6: "angry", 7: "neutral"}
LIST_NAME = "list_patition_label.txt"
MAX_LIST_BYTES = 100_000_000
LAYOUTS = f"EmoLabel/{LIST_NAME} and Image/aligned/, or train/1/ … train/7/ and test/1/ … test/7/"


def read_rafdb(option: str, path: Path, counts: Counter[str]) -> list[LabelledExample]:
    """Read RAF-DB from one of its layouts, with the published splits "train" and "test".

    - The folder `basic` of the original, or a folder around it: `EmoLabel/list_patition_label.txt` has lines
      such as `train_00001.jpg 5`, and `Image/aligned/` has `train_00001_aligned.jpg`. The folders `EmoLabel`
      and `Image` may be absent.
    - Folders as on Kaggle (`DATASET/train/1/….jpg`), of which the lists of labels are not needed.

    The aligned images are squares of 100×100 pixels from forehead to chin, and are used as they are. Raises
    InputError, which begins with `option`.
    """
    places = [path / folder for folder in ("EmoLabel", "", "basic/EmoLabel", "basic")]
    lists = [place / LIST_NAME for place in places if (place / LIST_NAME).is_file()]
    check_single_layout(option, path, CLASSES, lists, LAYOUTS)
    if not lists:
        return read_numbered_folder(option, path, counts, CLASSES)
    return _read_list(option, path, lists[0], counts)


def _read_list(option: str, path: Path, file: Path, counts: Counter[str]) -> list[LabelledExample]:
    root = file.parent.parent if file.parent.name == "EmoLabel" else file.parent
    folder = next((f for f in (root / "Image" / "aligned", root / "aligned") if f.is_dir()), None)
    if folder is None:
        raise InputError(
            f"{option}: there is no folder {root / 'Image' / 'aligned'}; unpack aligned.zip there"
        )
    try:
        lines = read_bounded(file, MAX_LIST_BYTES).decode().splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{option}: cannot read {file}: {error}") from error
    named = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"\s*((train|test)_\d+)\.jpg\s+([1-7])\s*", line)
        if match is None:
            raise InputError(
                f"{option}: {file}: line {number}: expected a name and a label of 1–7, such as "
                f"'train_00001.jpg 5', found {line.strip()[:40]!r}"
            )
        name, split, label = match.groups()
        named.append((folder / f"{name}_aligned.jpg", (split, CLASSES[int(label)])))
    return [
        LabelledExample(
            images=image[None], label=label, split=split, source=str(image_path.relative_to(path))
        )
        for image, (image_path, split, label) in read_images(
            option, ((p, (p, split, label)) for p, (split, label) in named), counts, read_padded_image
        )
    ]
