"""RAF-DB in its layouts: labels, published splits, framing, and errors."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_batch.data.rafdb import read_rafdb
from fer_batch.schema import EMOTIONS
from tests.datasets import (
    LabelledImage,
    assert_one_line_error,
    count_contents,
    get_frames_by_split,
    load_dataset,
    number_images,
    numbered_folders,
    png,
    rafdb_original,
)

LABELS = ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")
Layout = Callable[[Path, Sequence[LabelledImage]], Path]
LIST = Path("basic", "EmoLabel", "list_patition_label.txt")


def bare_original(folder: Path, rows: Sequence[LabelledImage]) -> Path:
    """Write the list beside the folder of images."""
    root = rafdb_original(folder, rows) / "basic"
    (root / "EmoLabel" / LIST.name).rename(root / LIST.name)
    (root / "Image" / "aligned").rename(root / "aligned")
    return root


def named_folders(folder: Path, rows: Sequence[LabelledImage]) -> Path:
    root = numbered_folders(folder, rows, place="", test="val")
    for number, label in enumerate(LABELS, start=1):
        for split in ("train", "val"):
            if (root / split / str(number)).is_dir():
                (root / split / str(number)).rename(root / split / label)
    return root


@pytest.mark.parametrize("layout", [rafdb_original, bare_original, numbered_folders, named_folders])
def test_each_layout_has_the_labels_and_the_published_splits(tmp_path: Path, layout: Layout) -> None:
    rows = number_images([1, 2, 3, 4, 5, 6, 7] * 4)
    clips, counts = load_dataset("rafdb", layout(tmp_path, rows), for_training=False)
    assert count_contents(clips) == Counter(
        (image.tobytes(), LABELS[number - 1], split) for image, number, split in rows
    )
    assert clips.classes == EMOTIONS
    assert not counts


def test_the_selection_split_is_a_part_of_train_and_never_of_test(tmp_path: Path) -> None:
    rows = number_images([1, 2, 3, 4, 5, 6, 7] * 20, ("train", "train", "test"))
    clips, _ = load_dataset("rafdb", rafdb_original(tmp_path, rows))
    frames = get_frames_by_split(clips)
    assert frames["test"] == {image.tobytes() for image, _, split in rows if split == "test"}
    assert frames.keys() == {"train", "calibrate", "select", "test"}


def test_the_whole_aligned_image_is_the_face(tmp_path: Path) -> None:
    path = rafdb_original(tmp_path, number_images([4, 5]))
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[:50] = 200
    Image.fromarray(pixels).save(path / "basic" / "Image" / "aligned" / "train_00001_aligned.jpg")
    frame = read_rafdb("--data", path, Counter())[0].images[0]
    assert frame.shape == (48, 48)
    assert np.allclose(frame[:22], 200, atol=4)
    assert np.allclose(frame[26:], 0, atol=4)


def test_missing_and_broken_images_are_counted(tmp_path: Path) -> None:
    path = rafdb_original(tmp_path, number_images([1, 2, 3, 4, 5, 6, 7]))
    images = sorted((path / "basic" / "Image" / "aligned").iterdir())
    images[0].unlink()
    images[1].write_bytes(b"no image")
    clips, counts = load_dataset("rafdb", path, for_training=False)
    assert counts == {"unreadable": 2}
    assert len(clips) == 5


def edit_list(content: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = rafdb_original(folder, number_images([1, 2]))
        (path / LIST).write_text(content)
        return path

    return make


def without_images(folder: Path) -> Path:
    path = rafdb_original(folder, number_images([1, 2]))
    (path / "basic" / "Image" / "aligned").rename(path / "basic" / "Image" / "original")
    return path


def with_both_layouts(folder: Path) -> Path:
    path = rafdb_original(folder, number_images([1, 2]))
    numbered_folders(folder, number_images([1, 2])).rename(path / "other")
    (path / "other" / "DATASET").rename(path / "DATASET")
    return path


def with_mostly_missing_images(folder: Path) -> Path:
    path = rafdb_original(folder, number_images([1, 2, 3]))
    for image in sorted((path / "basic" / "Image" / "aligned").iterdir())[1:]:
        image.unlink()
    return path


def with_list_of_bytes(folder: Path) -> Path:
    path = rafdb_original(folder, number_images([1, 2]))
    (path / LIST).write_bytes(b"train_00001.jpg \xff")
    return path


def make_file(folder: Path) -> Path:
    (folder / "rafdb.zip").write_bytes(png(np.zeros((48, 48), np.uint8)))
    return folder / "rafdb.zip"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nowhere", "no such file or folder"),
        (lambda folder: folder, "expected a folder with EmoLabel/list_patition_label.txt and Image/aligned/"),
        (make_file, "is a file; expected a folder with EmoLabel"),
        (edit_list(""), "no labelled face images found"),
        (edit_list("train_00001.jpg 5\ntrain_00002.jpg 8\n"), "line 2: .*label of 1–7.*'train_00002.jpg 8'"),
        (edit_list("train_00001.jpg 0\n"), "line 1: .*found 'train_00001.jpg 0'"),
        (edit_list("photo.jpg 1\n"), "line 1: .*found 'photo.jpg 1'"),
        (edit_list("../train_1.jpg 1\n"), "line 1: "),
        (with_list_of_bytes, "cannot read .*list_patition_label.txt"),
        (without_images, "no folder .*Image/aligned; unpack aligned.zip"),
        (with_both_layouts, r"basic/EmoLabel/\S+ and DATASET/test belong to different layouts"),
        (with_mostly_missing_images, "cannot read 2 of 3 images, for example .*_aligned.jpg"),
        (
            lambda folder: numbered_folders(folder, number_images([0, 0, 1, 1, 6, 6])),
            "unexpected class folders: 0; allowed are the names or numbers of 1 surprise, 2 fear",
        ),
        (
            lambda folder: numbered_folders(folder, number_images([1, 1])),
            "two or more classes, found surprise",
        ),
    ],
)
def test_errors_are_one_line_with_the_path(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    assert_one_line_error("rafdb", make(tmp_path), message)
