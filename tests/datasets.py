"""Write small data sets of labelled faces in each layout."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fer_batch.data.clips import Clips
from fer_batch.data.datasets import load_datasets
from fer_batch.data.fer2013 import CSV_CLASSES
from fer_batch.errors import InputError

Row = tuple[np.ndarray, str, str]
"""An image, its label and its split, as FER2013 names them."""
SPLITS = {"Training": "train", "PublicTest": "select", "PrivateTest": "test"}
FOLDERS = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
Sequence48 = tuple[str, str, dict[int, np.ndarray]]
"""A CK+48 sequence like S010_004, its label, and its images by frame number."""


def assert_one_line_error(name: str, path: Path, message: str) -> None:
    """Assert that a data set is refused with one line that begins with the option and its path."""
    with pytest.raises(InputError, match=message) as caught:
        load_dataset(name, path)
    assert str(caught.value).startswith(f"--data {name}={path}: ")
    assert "\n" not in str(caught.value)


def load_dataset(name: str, path: Path, **options: Any) -> tuple[Clips, Counter[str]]:
    return load_datasets([(name, str(path))], **options)


def random_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 48, 48), np.uint8)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95)
    return file.getvalue()


def write_images(folder: Path, images: Mapping[str, Sequence[np.ndarray]]) -> Path:
    """Write images by relative folder, such as "train/happy"."""
    for place, its in images.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(its):
            (folder / place / f"{number}.png").write_bytes(png(image))
    return folder


def write_random_images(folder: Path, counts: Mapping[str, int]) -> Path:
    """Write a number of different random images for each relative folder."""
    images = {place: random_images(count, 100 + n) for n, (place, count) in enumerate(counts.items())}
    return write_images(folder / "faces", images)


def fer_rows(count: int, usages: Sequence[str] = tuple(FOLDERS), seed: int = 0) -> list[Row]:
    images = random_images(count, seed)
    return [(images[i], CSV_CLASSES[i % 7], usages[i % len(usages)]) for i in range(count)]


def fer_parquet(folder: Path, rows: Sequence[Row]) -> Path:
    images, labels, usages = zip(*rows, strict=True) if rows else ([], [], [])
    columns = {"image_png": [png(i) for i in images], "label_name": list(labels), "usage": list(usages)}
    path = folder / "fer2013.parquet"
    pq.write_table(pa.table({k: pa.array(v) for k, v in columns.items()}), path)
    return path


def fer_csv(folder: Path, rows: Sequence[Row]) -> Path:
    path = folder / "fer2013.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["emotion", "pixels", "Usage"])
        for image, label, usage in rows:
            writer.writerow([CSV_CLASSES.index(label), " ".join(map(str, image.ravel().tolist())), usage])
    return path


def fer_folders(folder: Path, rows: Sequence[Row]) -> Path:
    path = folder / "fer2013"
    path.mkdir()
    for number, (image, label, usage) in enumerate(rows):
        place = path / FOLDERS[usage] / label
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:05d}.png").write_bytes(png(image))
    return path


LAYOUTS = [fer_parquet, fer_csv, fer_folders]
Layout = Callable[[Path, Sequence[Row]], Path]


def ck_sequences(subjects: int, seed: int = 0) -> list[Sequence48]:
    labels = ("anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")
    images = iter(random_images(subjects * 6, seed))
    return [
        (f"S{subject:03d}_{take:03d}", labels[(subject + take) % 7], {n: next(images) for n in (9, 10, 11)})
        for subject in range(10, 10 + subjects)
        for take in (1, 2)
    ]


def ck_parquet(folder: Path, sequences: Sequence[Sequence48]) -> Path:
    rows = [
        {"sequence": name, "subject": name[:4], "frame": n, "label_name": label, "image_png": png(image)}
        for name, label, images in sequences
        for n, image in images.items()
    ]
    path = folder / "ck48.parquet"
    pq.write_table(pa.Table.from_pylist(list(reversed(rows))), path)
    return path


def ck_folders(folder: Path, sequences: Sequence[Sequence48]) -> Path:
    path = folder / "CK+48"
    path.mkdir()
    for name, label, images in sequences:
        (path / label).mkdir(exist_ok=True)
        for n, image in images.items():
            (path / label / f"{name}_{n:08d}.png").write_bytes(png(image))
    return path


def muxspace_parquet(folder: Path, rows: Sequence[tuple[np.ndarray, str, str | None]]) -> Path:
    """Write images, grey or RGB, with their labels and subjects."""
    images, labels, subjects = zip(*rows, strict=True)
    columns = {"image_jpeg": [jpeg(image) for image in images], "label_name": labels, "subject": subjects}
    path = folder / "muxspace.parquet"
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), path)
    return path


LabelledImage = tuple[np.ndarray, int, str]
"""An image, the number of its class in RAF-DB or AffectNet, and its split, "train" or "test"."""


def number_images(numbers: Sequence[int], splits: Sequence[str] = ("train", "test")) -> list[LabelledImage]:
    """Make an image for each number, of the splits in turn."""
    images = random_images(len(numbers), 300)
    return [(images[i], number, splits[i % len(splits)]) for i, number in enumerate(numbers)]


def rafdb_original(folder: Path, rows: Sequence[LabelledImage]) -> Path:
    root, lines = folder / "rafdb" / "basic", []
    (root / "EmoLabel").mkdir(parents=True)
    (root / "Image" / "aligned").mkdir(parents=True)
    for row, (image, number, split) in enumerate(rows, start=1):
        lines.append(f"{split}_{row:05d}.jpg {number}\n")
        (root / "Image" / "aligned" / f"{split}_{row:05d}_aligned.jpg").write_bytes(png(image))
    (root / "EmoLabel" / "list_patition_label.txt").write_text("".join(lines))
    return root.parent


def numbered_folders(
    folder: Path, rows: Sequence[LabelledImage], place: str = "DATASET", test: str = "test"
) -> Path:
    """Write RAF-DB or AffectNet as `train/1/….jpg`; `test` is the name of the folder of the test part."""
    root = folder / "numbered"
    for row, (image, number, split) in enumerate(rows, start=1):
        into = root / place / (test if split == "test" else split) / str(number)
        into.mkdir(parents=True, exist_ok=True)
        (into / f"{split}_{row:05d}_aligned.jpg").write_bytes(png(image))
    return root


def affectnet_sets(folder: Path, rows: Sequence[LabelledImage]) -> Path:
    root = folder / "affectnet"
    for row, (image, number, split) in enumerate(rows):
        part = root / ("val_set" if split == "test" else "train_set")
        for name in ("images", "annotations"):
            (part / name).mkdir(parents=True, exist_ok=True)
        (part / "images" / f"{row}.jpg").write_bytes(png(image))
        np.save(part / "annotations" / f"{row}_exp.npy", np.array(str(number)))
        np.save(part / "annotations" / f"{row}_aro.npy", np.array("0.5"))
    return root


def affectnet_lists(folder: Path, rows: Sequence[LabelledImage]) -> Path:
    """Write the original lists; each image has a border of 20 pixels around its face box."""
    root = folder / "affectnet"
    for split, name in (("train", "training.csv"), ("test", "validation.csv")):
        root.mkdir(exist_ok=True)
        with (root / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(AFFECTNET_COLUMNS)
            for row, (image, number, its_split) in enumerate(rows):
                if its_split != split:
                    continue
                path = root / "Manually_Annotated_Images" / str(row % 3) / f"{row:056x}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(np.pad(image, 20, constant_values=255)))
                face = [20, 20, 48, 48, "21.5;30.25;40;41"]
                writer.writerow([f"{row % 3}/{path.name}", *face, number, -0.1, 0.3])
    return root


AFFECTNET_COLUMNS = (
    "subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks",
    "expression", "valence", "arousal",
)  # fmt: skip


def get_frames(clips: Clips) -> list[bytes]:
    """Return the frames of each clip."""
    return [clips.frames[clips.starts[i] : clips.starts[i + 1]].tobytes() for i in range(len(clips))]


def get_frames_by_split(clips: Clips) -> dict[str, set[bytes]]:
    frames = np.array(get_frames(clips), object)
    return {split: set(frames[clips.splits == split]) for split in np.unique(clips.splits).tolist()}


def count_contents(clips: Clips) -> Counter[tuple[bytes, str, str]]:
    """Count the clips by frames, class and split; calibration clips count as training."""
    labels = [clips.classes[label] for label in clips.labels]
    splits = np.where(clips.splits == "calibrate", "train", clips.splits).tolist()
    return Counter(zip(get_frames(clips), labels, splits, strict=True))


def count_rows(rows: Sequence[Row]) -> Counter[tuple[bytes, str, str]]:
    return Counter((image.tobytes(), label, SPLITS[usage]) for image, label, usage in rows)
