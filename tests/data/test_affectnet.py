"""AffectNet in its layouts: labels, splits, face boxes, contempt, and errors."""

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from fer_batch.data.affectnet import read_affectnet
from fer_batch.data.clips import count_classes
from fer_batch.schema import EMOTIONS
from tests.datasets import (
    AFFECTNET_COLUMNS,
    LabelledImage,
    affectnet_lists,
    affectnet_sets,
    assert_one_line_error,
    count_contents,
    get_frames_by_split,
    load_dataset,
    number_images,
    numbered_folders,
    png,
)

LABELS = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt")
Layout = Callable[[Path, Sequence[LabelledImage]], Path]


def in_subfolders(folder: Path, rows: Sequence[LabelledImage]) -> Path:
    """Write the layout of the original archives."""
    path = affectnet_lists(folder, rows)
    for into, names in (
        ("Manually_Annotated_file_lists", ["training.csv", "validation.csv"]),
        ("Manually_Annotated", ["Manually_Annotated_Images"]),
    ):
        (path / into).mkdir()
        for name in names:
            (path / name).rename(path / into / name)
    return path


def val_folders(folder: Path, rows: Sequence[LabelledImage]) -> Path:
    return numbered_folders(folder, rows, place="", test="val")


LAYOUTS = [affectnet_sets, affectnet_lists, in_subfolders, numbered_folders, val_folders]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_has_the_labels_and_the_validation_part_is_test(tmp_path: Path, layout: Layout) -> None:
    rows = number_images([*range(11)] * 2, ("train", "test", "train"))
    clips, counts = load_dataset("affectnet", layout(tmp_path, rows), for_training=False)
    assert count_contents(clips) == Counter(
        (image.tobytes(), LABELS[number], split) for image, number, split in rows if number < 7
    )
    assert clips.classes == EMOTIONS
    assert counts == {
        "contempt_left_out": 2, "none_left_out": 2, "uncertain_left_out": 2, "no_face_left_out": 2
    }  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_contempt_is_a_class_if_the_classes_name_it(tmp_path: Path, layout: Layout) -> None:
    path = layout(tmp_path, number_images([*range(8)] * 2))
    clips, counts = load_dataset("affectnet", path, classes=(*EMOTIONS, "contempt"), for_training=False)
    assert count_classes(clips) == dict.fromkeys((*EMOTIONS, "contempt"), 2)
    assert not counts
    _, counts = load_dataset("affectnet", path, leave_out=("contempt",), for_training=False)
    assert counts == {"contempt_left_out": 2}


def test_the_selection_split_is_a_part_of_train_and_never_of_validation(tmp_path: Path) -> None:
    rows = number_images([*range(7)] * 20, ("train", "train", "test"))
    clips, _ = load_dataset("affectnet", val_folders(tmp_path, rows))
    frames = get_frames_by_split(clips)
    assert frames["test"] == {image.tobytes() for image, _, split in rows if split == "test"}
    assert frames.keys() == {"train", "calibrate", "select", "test"}


def test_a_validation_folder_beside_a_test_folder_selects(tmp_path: Path) -> None:
    rows = number_images([*range(6)] * 3, ("train", "test", "valid"))
    clips, _ = load_dataset("affectnet", numbered_folders(tmp_path, rows), for_training=False)
    assert Counter(clips.splits.tolist()) == {"train": 6, "test": 6, "select": 6}


def test_one_part_is_enough_to_evaluate(tmp_path: Path) -> None:
    path = affectnet_sets(tmp_path, number_images([*range(8)], ("test",)))
    clips, _ = load_dataset("affectnet", path, for_training=False)
    assert set(clips.splits) == {"test"}


def write_box(folder: Path, image: np.ndarray, box: Sequence[object]) -> Path:
    """Write a list of two lines: this image with its box, and another one."""
    path = affectnet_lists(folder, number_images([1, 2], ("train",)))
    first = path / "Manually_Annotated_Images" / "0" / "a.png"
    first.write_bytes(png(image))
    lines = (path / "training.csv").read_text().splitlines(keepends=True)
    row = ["0/a.png", *box, "", 4, 0, 0]
    (path / "training.csv").write_text(lines[0] + ",".join(map(str, row)) + "\n" + lines[2])
    return path


def test_the_face_box_is_cut_and_padded_to_a_square(tmp_path: Path) -> None:
    image = np.zeros((200, 300), np.uint8)
    image[40:160, 100:180] = 100
    image[60:100, 120:160] = 250
    frame = read_affectnet("--data", write_box(tmp_path, image, (100, 40, 80, 120)), Counter())[0].images[0]
    assert frame[0, 0] == 100
    bright = frame > 200
    assert np.allclose([bright.any(axis=1).sum(), bright.any(axis=0).sum()], 16, atol=1)
    assert np.allclose(np.argwhere(bright).min(axis=0), [8, 16], atol=1)


def test_a_box_beyond_the_image_is_limited_to_it(tmp_path: Path) -> None:
    image = np.full((60, 60), 90, np.uint8)
    frames = read_affectnet("--data", write_box(tmp_path, image, (-10, 20, 90, 90)), Counter())[0].images
    assert (frames == 90).all()


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        (("NULL", "NULL", "NULL", "NULL"), "without_face_box"),
        (("", "", "", ""), "without_face_box"),
        ((10, 10, 0, 40), "without_face_box"),
        ((10, 10, -5, 40), "without_face_box"),
        ((10, 10, "nan", 40), "without_face_box"),
        ((500, 500, 40, 40), "unreadable"),
        ((10, 10, "inf", 40), "without_face_box"),
        ((10, 10, 0.1, 0.1), "unreadable"),
    ],
)
def test_unusable_boxes_are_counted(tmp_path: Path, box: Sequence[object], reason: str) -> None:
    counts: Counter[str] = Counter()
    examples = read_affectnet("--data", write_box(tmp_path, np.zeros((60, 60), np.uint8), box), counts)
    assert [example.label for example in examples] == ["sad"]
    assert counts == {reason: 1}


def test_labels_are_numbers_or_text_and_missing_ones_are_counted(tmp_path: Path) -> None:
    path = affectnet_sets(tmp_path, number_images([1] * 8, ("train",)))
    annotations = path / "train_set" / "annotations"
    np.save(annotations / "0_exp.npy", np.array(3))
    np.save(annotations / "1_exp.npy", np.array([4.0]))
    (annotations / "2_exp.npy").unlink()
    (annotations / "3_exp.npy").write_bytes(b"")
    np.save(annotations / "4_exp.npy", np.array({"a": 1}), allow_pickle=True)
    np.save(annotations / "5_exp.npy", np.array([1, 2]))
    counts: Counter[str] = Counter()
    examples = read_affectnet("--data", path, counts)
    assert [example.label for example in examples] == ["surprise", "fear", "happy", "happy"]
    assert counts == {"without_label": 4}


def test_missing_images_are_counted(tmp_path: Path) -> None:
    path = affectnet_lists(tmp_path, number_images([*range(7)]))
    next((path / "Manually_Annotated_Images").rglob("*.jpg")).unlink()
    assert load_dataset("affectnet", path, for_training=False)[1] == {"unreadable": 1}


def test_images_outside_the_data_set_are_unreadable(tmp_path: Path) -> None:
    path = write_box(tmp_path, np.zeros((60, 60), np.uint8), (10, 10, 40, 40))
    outside = tmp_path / "outside.png"
    outside.write_bytes(png(np.zeros((60, 60), np.uint8)))
    (path / "training.csv").write_text((path / "training.csv").read_text().replace("0/a.png", str(outside)))
    counts: Counter[str] = Counter()
    assert [example.label for example in read_affectnet("--data", path, counts)] == ["sad"]
    assert counts == {"unreadable": 1}


def make_list(*rows: Sequence[object], columns: Sequence[str] = AFFECTNET_COLUMNS) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = affectnet_lists(folder, number_images([1, 2], ("train",)))
        with (path / "training.csv").open("w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])
        return path

    return make


def with_label(number: int) -> Callable[[Path], Path]:
    return lambda folder: affectnet_sets(folder, number_images([1, number], ("train",)))


def without(layout: Layout, name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = layout(folder, number_images([1, 2]))
        (path / name).rename(folder / "elsewhere")
        return path

    return make


def with_both_layouts(folder: Path) -> Path:
    affectnet_lists(folder, number_images([1, 2]))
    return affectnet_sets(folder, number_images([1, 2]))


def with_folders_of_classes(folder: Path) -> Path:
    path = affectnet_sets(folder, number_images([1, 2]))
    (numbered_folders(folder, number_images([1, 2])) / "DATASET" / "train").rename(path / "train")
    return path


def without_most_labels(folder: Path) -> Path:
    path = affectnet_sets(folder, number_images([1, 2, 3], ("train",)))
    for number in (1, 2):
        (path / "train_set" / "annotations" / f"{number}_exp.npy").unlink()
    return path


FACE = (20, 20, 48, 48, "1;2")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nowhere", "no such file or folder"),
        (lambda folder: folder, "expected a folder with train_set/images/ and train_set/annotations/, or "),
        (make_list(), "no labelled face images found"),
        (make_list(("a.jpg", *FACE, 8, 0, 0)), "no labelled face images found"),
        (
            make_list(("a.jpg", *FACE, 11, 0, 0)),
            "training.csv: line 2: expected an expression of 0–10, found 11",
        ),
        (make_list(("a.jpg", *FACE, "", 0, 0)), "training.csv: line 2: .*found None"),
        (make_list(("a.jpg", *FACE, "happy", 0, 0)), "expected a CSV with the columns .*happy"),
        (make_list(("a.jpg", 1), columns=("image", "label")), "expected a CSV .*subDirectory_filePath"),
        (make_list(("a.jpg", *FACE, 1, 0, 0)), "cannot read 1 of 1 images, for example .*Images/a.jpg"),
        (with_label(11), "1_exp.npy: expected an expression of 0–10, found 11"),
        (with_label(-1), "1_exp.npy: expected an expression of 0–10, found -1"),
        (without(affectnet_sets, "train_set/annotations"), "train_set has no folder annotations"),
        (without(affectnet_sets, "val_set/images"), "val_set has no folder images"),
        (without(affectnet_lists, "Manually_Annotated_Images"), "no folder Manually_Annotated_Images"),
        (without_most_labels, "2 of 3 images of train_set have no readable label, .*annotations/1_exp"),
        (with_both_layouts, "train_set and training.csv belong to different layouts"),
        (with_folders_of_classes, "train_set and train belong to different layouts"),
        (
            lambda folder: numbered_folders(folder, number_images([1, 1, 11, 11])),
            "unexpected class folders: 11; allowed are the names or numbers of 0 neutral, 1 happy",
        ),
    ],
)
def test_errors_are_one_line_with_the_path(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    assert_one_line_error("affectnet", make(tmp_path), message)
