"""CK+48, folders of classes, unreadable images, several data sets, and errors that name the path."""

import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fer_batch.data.clips import count_classes
from fer_batch.data.datasets import load_datasets
from fer_batch.errors import InputError
from fer_batch.schema import EMOTIONS
from tests.datasets import (
    ck_folders,
    ck_parquet,
    ck_sequences,
    count_contents,
    count_rows,
    fer_csv,
    fer_folders,
    fer_parquet,
    fer_rows,
    get_frames_by_split,
    load_dataset,
    png,
    random_images,
    write_random_images,
)

PNG = png(random_images(1)[0])
TEXT = b"an essay\non faces\n"


def make_oversized_image() -> bytes:
    header = bytearray(PNG)
    header[16:24] = (100_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    return bytes(header)


@pytest.mark.parametrize(
    "content",
    [b"", TEXT, PNG[: len(PNG) // 2], make_oversized_image()],
    ids=["empty", "text", "half", "oversized"],
)
@pytest.mark.parametrize("layout", [fer_folders, fer_parquet, ck_folders, ck_parquet])
def test_unreadable_images_are_counted_and_left_out(
    tmp_path: Path, content: bytes, layout: Callable[..., Path]
) -> None:
    is_fer = layout in (fer_folders, fer_parquet)
    path = layout(tmp_path, fer_rows(12) if is_fer else ck_sequences(6))
    name = "fer2013" if is_fer else "ck48"
    before = len(load_dataset(name, path)[0].frames)
    if path.is_dir():
        sorted(path.rglob("*.png"))[-1].write_bytes(content)
    else:
        rows = pq.read_table(path).to_pylist()
        next(row for row in rows if row["label_name"] != "contempt")["image_png"] = content
        pq.write_table(pa.Table.from_pylist(rows), path)
    clips, counts = load_dataset(name, path)
    assert counts["unreadable"] == 1
    assert len(clips.frames) == before - 1


def test_images_of_other_sizes_and_colours_become_grey_48_by_48(tmp_path: Path) -> None:
    folder = tmp_path / "faces" / "train" / "happy"
    folder.mkdir(parents=True)
    Image.new("RGB", (96, 80), (200, 30, 30)).save(folder / "red.jpg")
    Image.fromarray(random_images(1)[0]).resize((40, 40)).save(folder / "small.bmp")
    Image.fromarray(random_images(1)[0]).convert("RGBA").save(folder / "clear.PNG")
    (folder / "notes.txt").write_text("not an image")
    clips, _ = load_dataset("fer2013", tmp_path / "faces", for_training=False)
    assert clips.frames.shape == (3, 48, 48)


def test_nothing_is_dropped_or_held_out_for_evaluation(tmp_path: Path) -> None:
    rows = fer_rows(30)
    rows += [(rows[1][0], "sad", "Training"), (np.zeros((48, 48), np.uint8), "sad", "Training")]
    clips, counts = load_dataset("fer2013", fer_parquet(tmp_path, rows), for_training=False)
    assert count_contents(clips) == count_rows(rows)
    assert not counts
    assert set(clips.splits) == {"train", "select", "test"}
    sequences, _ = load_dataset("ck48", ck_parquet(tmp_path, ck_sequences(20)), for_training=False)
    assert set(sequences.splits) == {"train"}


@pytest.mark.parametrize("layout", [ck_parquet, ck_folders])
def test_each_layout_of_ck48_has_ordered_sequences(tmp_path: Path, layout: Callable[..., Path]) -> None:
    sequences = ck_sequences(40)
    clips, counts = load_dataset("ck48", layout(tmp_path, sequences))
    names = {"anger": "angry", "sadness": "sad"}
    wanted = Counter(
        (np.stack([images[n] for n in sorted(images)]).tobytes(), names.get(label, label))
        for _, label, images in sequences
        if label != "contempt"
    )
    assert Counter((frames, label) for frames, label, _ in count_contents(clips)) == wanted
    assert (np.diff(clips.starts) == 3).all()
    assert counts["contempt_left_out"] == sum(label == "contempt" for _, label, _ in sequences) > 0
    (tmp_path / "other").mkdir()
    other, _ = load_dataset("ck48", ck_parquet(tmp_path / "other", sequences))
    for field in ("frames", "starts", "labels", "splits"):
        assert np.array_equal(getattr(clips, field), getattr(other, field))


def test_each_subject_of_ck48_is_in_one_split(tmp_path: Path) -> None:
    sequences = ck_sequences(80)
    clips, _ = load_dataset("ck48", ck_parquet(tmp_path, sequences))
    subject = {np.stack(list(images.values())).tobytes(): name[:4] for name, _, images in sequences}
    people = {split: {subject[f] for f in frames} for split, frames in get_frames_by_split(clips).items()}
    assert people.keys() == {"train", "calibrate", "select"}
    assert not people["select"] & (people["train"] | people["calibrate"])
    assert {frozenset(clips.splits[clips.subjects == who]) for who in set(clips.subjects)} == {
        frozenset({split}) for split in ("train", "calibrate", "select")
    }
    assert 2 <= len(people["select"]) <= 16


@pytest.mark.parametrize(
    ("images", "found"),
    [
        ({"bored": 2, "Awake": 1}, {("bored", "train"): 2, ("awake", "train"): 1}),
        ({"Happiness/a/b": 2, "happy": 1, "SAD": 1}, {("happy", "train"): 3, ("sad", "train"): 1}),
        (
            {"Train/bored": 2, "train/awake/deep": 1, "val/bored": 1, "Test/awake": 1},
            {("bored", "train"): 2, ("awake", "train"): 1, ("bored", "select"): 1, ("awake", "test"): 1},
        ),
        ({"inner/train/a": 1, "inner/test/b": 2}, {("a", "train"): 1, ("b", "test"): 2}),
        ({"a": 1, "b": 1, ".cache/c": 1, "__MACOSX/a": 1}, {("a", "train"): 1, ("b", "train"): 1}),
    ],
    ids=["own names", "synonyms, any depth", "splits", "a folder around", "hidden"],
)
def test_a_folder_of_classes_is_read_at_any_depth(
    tmp_path: Path, images: dict[str, int], found: dict[tuple[str, str], int]
) -> None:
    clips, counts = load_dataset("folder", write_random_images(tmp_path, images), for_training=False)
    assert Counter((label, split) for _, label, split in count_contents(clips).elements()) == found
    assert clips.classes == tuple(sorted({label for label, _ in found}))
    assert not counts


def test_identical_images_of_a_folder_stay_in_one_split(tmp_path: Path) -> None:
    path = write_random_images(tmp_path, {"a": 150, "b": 150})
    (path / "a" / "copies").mkdir()
    for file in sorted((path / "a").glob("*.png")):
        (path / "a" / "copies" / file.name).write_bytes(file.read_bytes())
    (path / "outside.png").write_bytes(PNG)
    clips, counts = load_dataset("folder", path)
    assert counts == {"without_class": 1}
    frames = get_frames_by_split(clips)
    assert sum(map(len, frames.values())) == 300
    assert 15 <= len(frames["select"]) <= 50
    assert 3 <= len(frames["calibrate"]) <= 25


@pytest.mark.parametrize(
    ("data", "given", "classes"),
    [
        (("fer2013",), None, EMOTIONS),
        (("ck48",), None, EMOTIONS),
        (("folder",), None, ("bored", "contempt", "happy")),
        (("fer2013", "folder"), None, (*EMOTIONS, "bored", "contempt")),
        (("ck48", "fer2013"), None, EMOTIONS),
        (("ck48", "folder"), None, (*EMOTIONS, "bored", "contempt")),
        (("folder",), ("Contempt", "Happiness", "bored", "x"), ("Contempt", "Happiness", "bored", "x")),
        (("ck48",), (*EMOTIONS, "contempt"), (*EMOTIONS, "contempt")),
        (("ck48",), EMOTIONS[::-1], EMOTIONS[::-1]),
    ],
)
def test_classes_are_given_or_inferred_from_the_data(
    tmp_path: Path, data: tuple[str, ...], given: tuple[str, ...] | None, classes: tuple[str, ...]
) -> None:
    sequences = ck_sequences(40)
    paths = {
        "fer2013": fer_parquet(tmp_path, fer_rows(42)),
        "ck48": ck_parquet(tmp_path, sequences),
        "folder": write_random_images(tmp_path, {"happiness": 5, "bored": 3, "contempt": 4}),
    }
    clips, counts = load_datasets([(n, str(paths[n])) for n in data], classes=given, for_training=False)
    assert clips.classes == classes
    assert clips.votes.shape == (len(clips), len(classes))
    contempt = sum(label == "contempt" for _, label, _ in sequences)
    left_out = "ck48" in data and "contempt" not in classes
    assert counts == ({"contempt_left_out": contempt} if left_out else {})
    if "folder" in data:
        assert count_classes(clips)["bored"] == 3
    both = 4 * ("folder" in data) + contempt * ("ck48" in data and not left_out)
    assert {k.lower(): v for k, v in count_classes(clips).items()}.get("contempt", 0) == both


@pytest.mark.parametrize("classes", [None, ("happy", "surprise", "anger", "sadness", "fear")])
def test_classes_are_left_out_by_any_name_and_counted(
    tmp_path: Path, classes: tuple[str, ...] | None
) -> None:
    sequences = ck_sequences(20)
    data = [("ck48", str(ck_parquet(tmp_path, sequences)))]
    clips, counts = load_datasets(data, classes=classes, leave_out=("Contempt", "disgust"))
    of = Counter(label for _, label, _ in sequences)
    assert counts["contempt_left_out"] == of["contempt"]
    assert counts["disgust_left_out"] == of["disgust"]
    assert len(clips) == len(sequences) - of["contempt"] - of["disgust"]
    assert clips.classes == (classes or tuple(name for name in EMOTIONS if name != "disgust"))
    with pytest.raises(InputError, match=r"^--leave-out names unknown classes: disgst; the data has "):
        load_datasets(data, classes=classes, leave_out=("Contempt", "disgust", "disgst"))


def test_twins_are_dropped_across_data_sets(tmp_path: Path) -> None:
    rows = fer_rows(42)
    path = write_random_images(tmp_path, {"train/happy": 3, "val/happy": 1})
    held_out = next(image for image, _, usage in rows if usage == "PublicTest")
    (path / "train" / "happy" / "twin.png").write_bytes(png(held_out))
    data = [("fer2013", str(fer_parquet(tmp_path, rows))), ("folder", str(path))]
    clips, counts = load_datasets(data)
    assert counts == {"twins_dropped": 1}
    assert len(clips) == 42 + 4


MakeData = Callable[[Path], Path]


def with_file(name: str, content: bytes = b"") -> MakeData:
    """Return a function that writes a file, whose first folder (or itself) is the data set."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return folder / Path(name).parts[0]

    return make


def with_columns(**columns: list[object]) -> MakeData:
    """Return a function that writes a Parquet file; the default columns are those of one image of FER2013."""

    def make(folder: Path) -> Path:
        path = folder / "data.parquet"
        row: dict[str, list[object]] = {"image_png": [PNG], "label_name": ["happy"], "usage": ["Training"]}
        pq.write_table(pa.table(row | columns), path)
        return path

    return make


def with_csv_row(emotion: str, value: str, count: int = 2304, usage: str = "Training") -> MakeData:
    """Return a function that writes FER2013's CSV with a valid row and one of `count` pixels of a value."""
    valid, pixels = " ".join(["7"] * 2304), " ".join([value] * count)
    rows = f"emotion,pixels,Usage\n3,{valid},Training\n{emotion},{pixels},{usage}\n"
    return with_file("data.csv", rows.encode())


def with_folders(*folders: str) -> MakeData:
    return lambda folder: write_random_images(folder, dict.fromkeys(folders, 2))


def empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def missing(folder: Path) -> Path:
    return folder / "nowhere.parquet"


def without_columns(folder: Path) -> Path:
    pq.write_table(pa.table({"image": [b""], "label": [1]}), folder / "data.parquet")
    return folder / "data.parquet"


def truncated(folder: Path) -> Path:
    path = fer_parquet(folder, fer_rows(12))
    path.write_bytes(path.read_bytes()[:-200])
    return path


def mostly_unreadable(folder: Path) -> Path:
    path = write_random_images(folder, {"a": 2, "b": 2})
    for file in ("a/0.png", "a/1.png", "b/1.png"):
        (path / file).write_bytes(TEXT)
    return path


def empty_split(folder: Path) -> Path:
    path = write_random_images(folder, {"train/a": 2, "train/b": 2})
    (path / "val" / "a").mkdir(parents=True)
    return path


PIXELS = "expected an emotion of 0–6 and 2304 pixels of 0–255"
CK_NAME = "files of CK.48 are named like"


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        *[(name, missing, "no such file or folder") for name in ("folder", "fer2013", "ck48")],
        *[(name, empty_folder, "no files like") for name in ("fer2013", "ck48")],
        ("folder", empty_folder, "no files like .* named after their class, for example happy/"),
        ("folder", with_file("data.zip", TEXT), "is a file; give a folder"),
        ("folder", with_folders("."), "2 outside them"),
        ("folder", with_folders("happy"), "training needs two or more classes, found happy"),
        ("folder", with_folders("train/a", "b"), "split folders .train. and other folders .b. are mixed"),
        ("folder", empty_split, "split folder val is empty"),
        ("folder", mostly_unreadable, "cannot read 3 of 4 images, for example .*a/0.png"),
        ("clips", with_folders("a", "b"), "expected images, got videos"),
        ("fer2013", with_folders("train/angry", "test/bored"), "unexpected classes: bored; allowed are"),
        ("fer2013", with_file("data.zip", TEXT), "give a .parquet file, a .csv file or a folder"),
        ("fer2013", with_file("data.parquet"), "cannot read the file"),
        ("fer2013", with_file("data.parquet", TEXT), "cannot read the file"),
        ("fer2013", truncated, "cannot read the file .*expected a Parquet file with the columns"),
        ("fer2013", without_columns, "no column image_png, label_name, usage; .*, found image, label"),
        ("fer2013", with_columns(image_png=["x"]), "image_png must hold the bytes of PNG images"),
        ("fer2013", with_columns(label_name=["bored"]), "unexpected classes: bored"),
        ("fer2013", with_columns(label_name=[None]), "unexpected classes: none"),
        ("fer2013", with_columns(usage=["Exam"]), "unknown split 'Exam'"),
        ("fer2013", lambda folder: fer_parquet(folder, []), "image_png must hold"),
        ("fer2013", lambda folder: fer_csv(folder, []), "no labelled face images found"),
        ("fer2013", with_file("data.csv"), "expected a CSV with the columns"),
        ("fer2013", with_file("data.csv", TEXT), "expected a CSV with the columns"),
        *[("fer2013", with_csv_row("3", "1", count), PIXELS) for count in (0, 3, 2305)],
        *[("fer2013", with_csv_row("3", value), PIXELS) for value in ("x", "300", "-1")],
        *[("fer2013", with_csv_row(emotion, "1"), PIXELS) for emotion in ("7", "-1", "", "happy")],
        ("fer2013", with_csv_row("3", "1", usage="Exam"), "unknown split 'Exam'"),
        ("muxspace", with_file("data.csv", TEXT), "give a .parquet file with the columns"),
        ("muxspace", without_columns, "no column image_jpeg, label_name, subject"),
        ("muxspace", with_columns(image_jpeg=["x"], subject=["A"]), "image_jpeg must hold the bytes of JPEG"),
        ("ck48", with_file("data.parquet"), "cannot read the file"),
        ("ck48", with_file("data.csv", TEXT), "give a .parquet file, or a folder"),
        ("ck48", without_columns, "no column sequence, frame, label_name, image_png"),
        ("ck48", with_file("CK+48/anger/face.png", PNG), CK_NAME),
        ("ck48", with_file("CK+48/anger/S010_004.png", PNG), CK_NAME),
        ("ck48", with_file("CK+48/boredom/S010_004_00000017.png", PNG), "unexpected classes: boredom"),
    ],
)
def test_errors_name_the_path_the_problem_and_the_remedy(
    tmp_path: Path, name: str, make: MakeData, message: str
) -> None:
    path = make(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        load_dataset(name, path)
    assert str(caught.value).startswith(f"--data {name}={path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "make", "classes", "named"),
    [
        ("fer2013", lambda folder: fer_parquet(folder, fer_rows(14)), EMOTIONS[:4], "neutral, sad, surprise"),
        ("ck48", lambda folder: ck_parquet(folder, ck_sequences(10)), EMOTIONS[:2], "fear, happy, .*"),
        ("folder", with_folders("a", "b", "d"), ("a", "c"), "b, d"),
    ],
)
def test_all_unexpected_classes_are_named(
    tmp_path: Path, name: str, make: MakeData, classes: tuple[str, ...], named: str
) -> None:
    with pytest.raises(InputError, match=rf"unexpected classes: {named}; allowed are {', '.join(classes)}\."):
        load_dataset(name, make(tmp_path), classes=classes, for_training=False)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no data set given"),
        ([("folder", "")], "no such file or folder"),
        *[
            ([(name, ".")], f"unknown data set '{name}'; allowed are fer2013, ck48")
            for name in ("", "FER2013")
        ],
    ],
)
def test_missing_or_unknown_data_is_named(data: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_datasets(data)


def test_the_original_ck48(shared: Path) -> None:
    path = shared / "data" / "ck48.parquet"
    clips, counts = load_dataset("ck48", path)
    assert counts == {"contempt_left_out": 18}
    assert len(clips) == 327 - 18
    assert len(set(clips.subjects)) == 106
    assert (np.diff(clips.starts) == 3).all()
    assert count_classes(clips) == {
        "angry": 45, "disgust": 59, "fear": 25, "happy": 69, "sad": 28, "surprise": 83,
    }  # fmt: skip
    assert Counter(clips.splits.tolist()).keys() == {"train", "calibrate", "select"}
    with_contempt = load_dataset("ck48", path, classes=(*EMOTIONS, "contempt"), for_training=False)
    assert count_classes(with_contempt[0])["contempt"] == 18
    assert len(with_contempt[0]) == 327
    assert not with_contempt[1]
