"""Data sets: all layouts give the same clips, splits do not leak, and errors name the path."""

import csv
import io
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fer_batch.data.clips import Clips, concatenate_clips, count_classes
from fer_batch.data.datasets import load_dataset, load_datasets
from fer_batch.data.fer2013 import CSV_CLASSES, VOTE_COLUMNS
from fer_batch.errors import InputError
from fer_batch.schema import EMOTIONS

Row = tuple[np.ndarray, str, str]
"""An image, its label and its split, as FER2013 names them."""
FOLDERS = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
SPLITS = {"Training": "train", "PublicTest": "select", "PrivateTest": "test"}


def random_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 48, 48), np.uint8)


def fer_rows(count: int, usages: Sequence[str] = tuple(FOLDERS), seed: int = 0) -> list[Row]:
    images = random_images(count, seed)
    return [(images[i], CSV_CLASSES[i % 7], usages[i % len(usages)]) for i in range(count)]


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


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

Sequence48 = tuple[str, str, dict[int, np.ndarray]]
"""A CK+48 sequence like S010_004, its label, and its images by frame number."""


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


def count_contents(clips: Clips) -> Counter[tuple[bytes, str, str]]:
    """Count the clips by frames, class and split; calibration clips count as training."""
    return Counter(
        (
            clips.frames[clips.starts[i] : clips.starts[i + 1]].tobytes(),
            clips.classes[label],
            str(clips.splits[i]).replace("calibrate", "train"),
        )
        for i, label in enumerate(clips.labels)
    )


def count_rows(rows: Sequence[Row]) -> Counter[tuple[bytes, str, str]]:
    return Counter((image.tobytes(), label, SPLITS[usage]) for image, label, usage in rows)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_of_fer2013_has_images_labels_and_splits(tmp_path: Path, layout: Layout) -> None:
    rows = fer_rows(42)
    clips, counts = load_dataset("fer2013", layout(tmp_path, rows))
    assert count_contents(clips) == count_rows(rows)
    assert clips.frames.shape == (42, 48, 48)
    assert clips.frames.dtype == np.uint8
    assert clips.labels.dtype == clips.starts.dtype == np.int64
    assert (np.diff(clips.starts) == 1).all()
    assert not any(counts.values())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_twins_of_other_splits_and_blank_images_are_dropped_from_training(
    tmp_path: Path, layout: Layout
) -> None:
    rows = fer_rows(30)
    assert [rows[n][2] for n in (0, 1, 2)] == ["Training", "PublicTest", "PrivateTest"]
    black, grey = np.zeros((48, 48), np.uint8), np.full((48, 48), 128, np.uint8)
    dropped = [
        (rows[1][0], "sad", "Training"),
        (rows[2][0], rows[2][1], "Training"),
        (black, "sad", "Training"),
    ]
    kept = [(rows[0][0], rows[0][1], "Training"), (grey, "happy", "PublicTest")]
    clips, counts = load_dataset("fer2013", layout(tmp_path, rows + dropped + kept))
    assert count_contents(clips) == count_rows(rows + kept)
    assert (counts["twins_dropped"], counts["blank_dropped"]) == (2, 1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tenth_of_training_becomes_the_selection_split_if_there_is_none(
    tmp_path: Path, layout: Layout
) -> None:
    rows = fer_rows(300, ("Training", "Training", "PrivateTest"))
    rows += [(image, "fear", usage) for image, _, usage in rows if usage == "Training"]
    clips, _ = load_dataset("fer2013", layout(tmp_path, rows))
    held_out = count_contents(clips.take(clips.splits == "test"))
    assert held_out == count_rows([row for row in rows if row[2] == "PrivateTest"])
    assert len(clips) == len(rows)
    assert 0.04 <= np.mean(clips.splits[clips.splits != "test"] == "select") <= 0.16
    chosen = {image for image, _, split in count_contents(clips) if split == "select"}
    assert not chosen & {image for image, _, split in count_contents(clips) if split == "train"}


def test_all_layouts_choose_the_same_selection(tmp_path: Path) -> None:
    rows = fer_rows(120, ("Training",))
    chosen = [count_contents(load_dataset("fer2013", layout(tmp_path, rows))[0]) for layout in LAYOUTS]
    assert chosen[0] == chosen[1] == chosen[2]
    assert any(split == "select" for _, _, split in chosen[0])


@pytest.mark.parametrize(
    ("label", "normalized"),
    [
        ("anger", "angry"),
        ("Disgusted", "disgust"),
        ("fearful", "fear"),
        ("HAPPINESS", "happy"),
        ("Neutral", "neutral"),
        ("sadness", "sad"),
        ("surprised", "surprise"),
    ],
)
@pytest.mark.parametrize("layout", [fer_parquet, fer_folders])
def test_synonyms_of_class_names_are_read(
    tmp_path: Path, layout: Layout, label: str, normalized: str
) -> None:
    (image,) = random_images(1)
    clips, _ = load_dataset("fer2013", layout(tmp_path, [(image, label, "PublicTest")]), for_training=False)
    assert count_contents(clips) == count_rows([(image, normalized, "PublicTest")])


def test_images_of_other_sizes_and_colours_become_grey_48_by_48(tmp_path: Path) -> None:
    folder = tmp_path / "faces" / "train" / "happy"
    folder.mkdir(parents=True)
    Image.new("RGB", (96, 80), (200, 30, 30)).save(folder / "red.jpg")
    Image.fromarray(random_images(1)[0]).resize((40, 40)).save(folder / "small.bmp")
    Image.fromarray(random_images(1)[0]).convert("RGBA").save(folder / "clear.PNG")
    (folder / "notes.txt").write_text("not an image")
    clips, _ = load_dataset("fer2013", tmp_path / "faces", for_training=False)
    assert clips.frames.shape == (3, 48, 48)


def make_text() -> bytes:
    return b"not an image"


def make_half_image() -> bytes:
    whole = png(random_images(1)[0])
    return whole[: len(whole) // 2]


def make_oversized_image() -> bytes:
    header = bytearray(png(random_images(1)[0]))
    header[16:24] = (100_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    return bytes(header)


@pytest.mark.parametrize("spoil", [bytes, make_text, make_half_image, make_oversized_image])
@pytest.mark.parametrize("name", ["fer2013", "ck48"])
@pytest.mark.parametrize("kind", ["folders", "parquet"])
def test_unreadable_images_are_counted_and_left_out(
    tmp_path: Path, spoil: Callable[[], bytes], name: str, kind: str
) -> None:
    if name == "fer2013":
        path = (fer_folders if kind == "folders" else fer_parquet)(tmp_path, fer_rows(12))
    else:
        path = (ck_folders if kind == "folders" else ck_parquet)(tmp_path, ck_sequences(6))
    before = len(load_dataset(name, path)[0].frames)
    if kind == "folders":
        sorted(path.rglob("*.png"))[-1].write_bytes(spoil())
    else:
        rows = pq.read_table(path).to_pylist()
        next(row for row in rows if row["label_name"] != "contempt")["image_png"] = spoil()
        pq.write_table(pa.Table.from_pylist(rows), path)
    clips, counts = load_dataset(name, path)
    assert counts["unreadable"] == 1
    assert len(clips.frames) == before - 1


@pytest.mark.parametrize("layout", [ck_parquet, ck_folders])
def test_each_layout_of_ck48_has_sequences_with_frames_in_order(
    tmp_path: Path, layout: Callable[..., Path]
) -> None:
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
    people = {
        split: {subject[frames] for frames, _, s in count_contents(clips) if s == split}
        for split in ("train", "select")
    }
    assert set(clips.splits) == {"train", "calibrate", "select"}
    assert not people["train"] & people["select"]
    assert {frozenset(clips.splits[clips.subjects == who]) for who in set(clips.subjects)} == {
        frozenset({split}) for split in ("train", "calibrate", "select")
    }
    assert 2 <= len(people["select"]) <= 16


NO_VOTE = (-1,) * 10


def with_votes_parquet(folder: Path, rows: Sequence[Row], votes: Sequence[Sequence[int]]) -> Path:
    path = fer_parquet(folder, rows)
    table = pq.read_table(path)
    for number, name in enumerate(VOTE_COLUMNS):
        table = table.append_column(f"fp_{name}", pa.array([row[number] for row in votes], pa.int8()))
    pq.write_table(table, path)
    return path


def with_votes_csv(folder: Path, rows: Sequence[Row], votes: Sequence[Sequence[int]]) -> Path:
    with (folder / "fer2013new.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Usage", "Image name", *VOTE_COLUMNS])
        for number, ((_, _, usage), row) in enumerate(zip(rows, votes, strict=True)):
            writer.writerow([usage, f"fer{number:07d}.png", *row])
    return fer_csv(folder, rows)


@pytest.mark.parametrize(
    ("votes", "shares"),
    [
        (NO_VOTE, {}),
        ((0,) * 10, {}),
        ((0,) * 7 + (5, 3, 2), {}),
        ((10,) + (0,) * 9, {"neutral": 1.0}),
        ((0, 1, 2, 3, 4, 0, 0, 0, 0, 0), {"happy": 0.1, "surprise": 0.2, "sad": 0.3, "angry": 0.4}),
        ((0, 0, 0, 0, 0, 3, 1, 2, 3, 1), {"disgust": 0.75, "fear": 0.25}),
        ((5, 0, 0, 0, 0, 0, 0, 0, 0, -1), {}),
    ],
    ids=["unknown", "none", "for no class", "one", "several", "some for no class", "half known"],
)
@pytest.mark.parametrize("layout", [with_votes_parquet, with_votes_csv])
def test_votes_become_shares_of_the_classes(
    tmp_path: Path, layout: Callable[..., Path], votes: Sequence[int], shares: dict[str, float]
) -> None:
    rows = fer_rows(6)
    happy = (0, 10, *[0] * 8)
    clips, _ = load_dataset("fer2013", layout(tmp_path, rows, [votes] + [happy] * 5), for_training=False)
    assert clips.votes.dtype == np.float32
    assert clips.votes[0].tolist() == pytest.approx([shares.get(name, 0.0) for name in EMOTIONS])
    assert (clips.votes[1:, EMOTIONS.index("happy")] == 1).all()


def test_votes_for_contempt_count_if_it_is_a_class(tmp_path: Path) -> None:
    path = with_votes_csv(tmp_path, fer_rows(2), [(0, 0, 0, 0, 0, 3, 0, 1, 6, 0), NO_VOTE])
    clips, _ = load_dataset("fer2013", path, classes=(*EMOTIONS, "contempt"), for_training=False)
    assert clips.votes[0].tolist() == [0, 0.75, 0, 0, 0, 0, 0, 0.25]


def test_rows_without_votes_are_zero(tmp_path: Path) -> None:
    for data in (
        ("fer2013", fer_csv(tmp_path, fer_rows(14))),
        ("ck48", ck_parquet(tmp_path, ck_sequences(8))),
    ):
        clips, _ = load_dataset(*data)
        assert clips.votes.shape == (len(clips), 7)
        assert not clips.votes.any()


def test_votes_of_other_rows_are_refused(tmp_path: Path) -> None:
    rows = fer_rows(6)
    with_votes_csv(tmp_path, rows[:5], [NO_VOTE] * 5)
    with pytest.raises(InputError, match=r"Usage column of .*new.csv differs \(5 rows, expected 6\)"):
        load_dataset("fer2013", fer_csv(tmp_path, rows))
    with_votes_csv(tmp_path, rows[::-1], [NO_VOTE] * 6)
    with pytest.raises(InputError, match=r"differs \(6 rows, expected 6\)"):
        load_dataset("fer2013", fer_csv(tmp_path, rows))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_part_of_training_is_held_out_for_calibration(tmp_path: Path, layout: Layout) -> None:
    rows = fer_rows(400, ("Training", "Training", "PublicTest", "Training"))
    rows += [(image, label, usage) for image, label, usage in rows if usage == "Training"][:150]
    path = layout(tmp_path, rows)
    clips, _ = load_dataset("fer2013", path)
    pixels = {
        split: {f.tobytes() for f in clips.frames[clips.splits == split]} for split in set(clips.splits)
    }
    assert pixels.keys() == {"train", "calibrate", "select"}
    assert not pixels["calibrate"] & (pixels["train"] | pixels["select"])
    assert 4 <= len(pixels["calibrate"]) <= 24
    whole, counts = load_dataset("fer2013", path, for_training=False)
    assert Counter(whole.splits.tolist()) == {"train": 450, "select": 100}
    assert not counts


def test_selection_and_calibration_are_chosen_independently(tmp_path: Path) -> None:
    rows = fer_rows(1000, ("Training",))
    clips, _ = load_dataset("fer2013", fer_parquet(tmp_path, rows))
    splits = Counter(clips.splits.tolist())
    assert 60 <= splits["select"] <= 140
    assert 18 <= splits["calibrate"] <= 60
    assert sum(splits.values()) == 1000


def test_an_image_with_two_labels_is_kept_and_counted(tmp_path: Path) -> None:
    rows = fer_rows(21)
    assert rows[0][1:] == ("angry", "Training")
    assert rows[3][1:] == ("happy", "Training")
    more = [(rows[0][0], "sad", "Training"), (rows[3][0], "happy", "Training")]
    clips, counts = load_dataset("fer2013", fer_parquet(tmp_path, rows + more))
    assert count_contents(clips) == count_rows(rows + more)
    assert counts == {"contradictory": 2}


def test_nothing_is_dropped_or_held_out_for_evaluation(tmp_path: Path) -> None:
    rows = fer_rows(30)
    rows += [(rows[1][0], "sad", "Training"), (np.zeros((48, 48), np.uint8), "sad", "Training")]
    clips, counts = load_dataset("fer2013", fer_parquet(tmp_path, rows), for_training=False)
    assert count_contents(clips) == count_rows(rows)
    assert not counts
    assert set(clips.splits) == {"train", "select", "test"}
    assert set(
        load_dataset("ck48", ck_parquet(tmp_path, ck_sequences(20)), for_training=False)[0].splits
    ) == {"train"}


def image_folders(folder: Path, images: dict[str, int], name: str = "faces") -> Path:
    """Write random images: their number for each relative folder."""
    path = folder / name
    for number, (place, count) in enumerate(images.items()):
        (path / place).mkdir(parents=True, exist_ok=True)
        for k, image in enumerate(random_images(count, seed=100 + number)):
            (path / place / f"{k:03d}.png").write_bytes(png(image))
    return path


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
    clips, counts = load_dataset("folder", image_folders(tmp_path, images), for_training=False)
    assert Counter((label, split) for _, label, split in count_contents(clips).elements()) == found
    assert clips.classes == tuple(sorted({label for label, _ in found}))
    assert not counts


def test_identical_images_of_a_folder_stay_in_one_split(tmp_path: Path) -> None:
    path = image_folders(tmp_path, {"a": 150, "b": 150})
    (path / "a" / "copies").mkdir()
    for file in sorted((path / "a").glob("*.png")):
        (path / "a" / "copies" / file.name).write_bytes(file.read_bytes())
    (path / "outside.png").write_bytes(png(random_images(1)[0]))
    clips, counts = load_dataset("folder", path)
    assert counts == {"without_class": 1}
    pixels = {
        s: {f.tobytes() for f in clips.frames[clips.splits == s]} for s in ("train", "calibrate", "select")
    }
    assert sum(map(len, pixels.values())) == 300
    assert 15 <= len(pixels["select"]) <= 50
    assert 3 <= len(pixels["calibrate"]) <= 25


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
        "folder": image_folders(tmp_path, {"happiness": 5, "bored": 3, "contempt": 4}),
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
    path = image_folders(tmp_path, {"train/happy": 3, "val/happy": 1})
    held_out = next(image for image, _, usage in rows if usage == "PublicTest")
    (path / "train" / "happy" / "twin.png").write_bytes(png(held_out))
    data = [("fer2013", str(fer_parquet(tmp_path, rows))), ("folder", str(path))]
    clips, counts = load_datasets(data)
    assert counts == {"twins_dropped": 1}
    assert len(clips) == 42 + 4


PNG = png(random_images(1)[0])
TEXT = b"an essay\non faces\n"
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
        pq.write_table(
            pa.table({"image_png": [PNG], "label_name": ["happy"], "usage": ["Training"]} | columns), path
        )
        return path

    return make


def with_csv_row(emotion: str, value: str, count: int = 2304, usage: str = "Training") -> MakeData:
    """Return a function that writes FER2013's CSV with a valid row and one of `count` pixels of a value."""
    valid, pixels = " ".join(["7"] * 2304), " ".join([value] * count)
    rows = f"emotion,pixels,Usage\n3,{valid},Training\n{emotion},{pixels},{usage}\n"
    return with_file("data.csv", rows.encode())


def with_folders(*folders: str) -> MakeData:
    return lambda folder: image_folders(folder, dict.fromkeys(folders, 2))


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
    path = image_folders(folder, {"a": 2, "b": 2})
    for file in [*sorted((path / "a").iterdir()), path / "b" / "001.png"]:
        file.write_bytes(TEXT)
    return path


def empty_split(folder: Path) -> Path:
    path = image_folders(folder, {"train/a": 2, "train/b": 2})
    (path / "val" / "a").mkdir(parents=True)
    return path


PIXELS = "expected an emotion of 0–6 and 2304 pixels of 0–255"
CK_NAME = "files of CK.48 are named like"


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("folder", missing, "no such file or folder"),
        ("fer2013", missing, "no such file or folder"),
        ("ck48", missing, "no such file or folder"),
        ("folder", empty_folder, "no files like .* named after their class, for example happy/"),
        ("fer2013", empty_folder, "no files like"),
        ("ck48", empty_folder, "no files like"),
        ("folder", with_file("data.zip", TEXT), "is a file; give a folder"),
        ("folder", with_folders("."), "2 outside them"),
        ("folder", with_folders("happy"), "training needs two or more classes, found happy"),
        ("folder", with_folders("train/a", "b"), "split folders .train. and other folders .b. are mixed"),
        ("folder", empty_split, "split folder val is empty"),
        ("folder", mostly_unreadable, "cannot read 3 of 4 images, for example .*a/000.png"),
        ("clips", with_folders("a", "b"), "expected images, got videos"),
        (
            "fer2013",
            with_folders("train/angry", "test/bored"),
            "unexpected classes: bored; allowed are",
        ),
        ("fer2013", with_file("data.zip", TEXT), "give a .parquet file, a .csv file or a folder"),
        ("fer2013", with_file("data.parquet"), "cannot read the file"),
        ("fer2013", with_file("data.parquet", TEXT), "cannot read the file"),
        ("fer2013", truncated, "cannot read the file .*expected a Parquet file with the columns"),
        ("fer2013", without_columns, "no column image_png, label_name, usage; .*, found image, label"),
        (
            "fer2013",
            with_columns(image_png=["x"]),
            "image_png must hold the bytes of PNG images",
        ),
        ("fer2013", with_columns(label_name=["bored"]), "unexpected classes: bored"),
        ("fer2013", with_columns(label_name=[None]), "unexpected classes: none"),
        ("fer2013", with_columns(usage=["Exam"]), "unknown split 'Exam'"),
        ("fer2013", lambda folder: fer_parquet(folder, []), "image_png must hold"),
        ("fer2013", lambda folder: fer_csv(folder, []), "no labelled face images found"),
        ("fer2013", with_file("data.csv"), "expected a CSV with the columns"),
        ("fer2013", with_file("data.csv", TEXT), "expected a CSV with the columns"),
        ("fer2013", with_csv_row("3", "", 0), PIXELS),
        ("fer2013", with_csv_row("3", "1", 3), PIXELS),
        ("fer2013", with_csv_row("3", "1", 2305), PIXELS),
        ("fer2013", with_csv_row("3", "x"), PIXELS),
        ("fer2013", with_csv_row("3", "300"), PIXELS),
        ("fer2013", with_csv_row("3", "-1"), PIXELS),
        ("fer2013", with_csv_row("7", "1"), PIXELS),
        ("fer2013", with_csv_row("-1", "1"), PIXELS),
        ("fer2013", with_csv_row("", "1"), PIXELS),
        ("fer2013", with_csv_row("happy", "1"), PIXELS),
        ("fer2013", with_csv_row("3", "1", usage="Exam"), "unknown split 'Exam'"),
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
    ("name", "classes", "named"),
    [
        ("fer2013", EMOTIONS[:4], "neutral, sad, surprise"),
        ("ck48", EMOTIONS[:2], "fear, happy, .*"),
        ("folder", ("a", "c"), "b, d"),
    ],
)
def test_all_unexpected_classes_are_named(
    tmp_path: Path, name: str, classes: tuple[str, ...], named: str
) -> None:
    path = {
        "fer2013": lambda: fer_parquet(tmp_path, fer_rows(14)),
        "ck48": lambda: ck_parquet(tmp_path, ck_sequences(10)),
        "folder": lambda: image_folders(tmp_path, {"a": 1, "b": 1, "d": 1}),
    }[name]()
    with pytest.raises(InputError, match=rf"unexpected classes: {named}; allowed are {', '.join(classes)}\."):
        load_dataset(name, path, classes=classes, for_training=False)


def test_missing_data_or_path_raises_input_error() -> None:
    with pytest.raises(InputError, match="no data set given"):
        load_datasets([])
    with pytest.raises(InputError, match="no such file or folder"):
        load_datasets([("folder", "")])


@pytest.mark.parametrize("name", ["", "FER2013", "affectnet"])
def test_an_unknown_data_set_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"unknown data set '{name}'; allowed are fer2013, ck48"):
        load_dataset(name, tmp_path)


def make_clips() -> Clips:
    """Make three clips of 1, 3 and 2 frames; each frame has one grey value."""
    values = np.array([0, 10, 11, 12, 20, 21], np.uint8)
    return Clips(
        frames=np.broadcast_to(values[:, None, None], (6, 48, 48)).copy(),
        starts=np.array([0, 1, 4, 6]),
        labels=np.array([3, 0, 5]),
        splits=np.array(["train", "select", "train"]),
        classes=EMOTIONS,
        votes=np.eye(7, dtype=np.float32)[[2, 0, 1]],
        subjects=np.array(["S1", "S2", ""]),
    )


@pytest.mark.parametrize(
    ("keep", "values", "starts", "labels"),
    [
        (np.zeros(3, bool), [], [0], []),
        (np.array([], np.int64), [], [0], []),
        (np.array([True, False, True]), [0, 20, 21], [0, 1, 3], [3, 5]),
        (np.array([2, 1]), [20, 21, 10, 11, 12], [0, 2, 5], [5, 0]),
        (np.array([1, 1]), [10, 11, 12, 10, 11, 12], [0, 3, 6], [0, 0]),
    ],
)
def test_taking_clips_keeps_all_their_frames(
    keep: np.ndarray, values: list[int], starts: list[int], labels: list[int]
) -> None:
    taken = make_clips().take(keep)
    assert taken.frames.shape == (len(values), 48, 48)
    assert taken.frames[:, 0, 0].tolist() == values
    assert taken.starts.tolist() == starts
    assert taken.labels.tolist() == labels
    assert len(taken) == len(taken.splits) == len(taken.votes) == len(taken.subjects) == len(labels)
    assert taken.subjects.tolist() == [{3: "S1", 0: "S2", 5: ""}[label] for label in labels]


def test_clips_are_concatenated() -> None:
    clips = make_clips()
    nothing = clips.take(np.zeros(3, bool))
    assert count_contents(concatenate_clips([nothing])) == Counter()
    joined = concatenate_clips([clips, nothing, clips.take(np.array([2]))])
    assert joined.starts.tolist() == [0, 1, 4, 6, 8]
    assert count_contents(joined) == count_contents(clips) + count_contents(clips.take(np.array([2])))


def test_clips_are_counted_by_class() -> None:
    clips = make_clips()
    assert count_classes(clips.take(np.zeros(3, bool))) == {}
    assert count_classes(concatenate_clips([clips, clips.take(np.array([1]))])) == {
        "angry": 2,
        "happy": 1,
        "sad": 1,
    }


def test_the_original_fer2013(shared: Path) -> None:
    path = shared / "data" / "fer2013.parquet"
    table = pq.read_table(path).drop_columns(["image_png"]).to_pandas()
    held_out = set(table.dup_group[table.usage == "PublicTest"])
    twins = (table.usage == "Training") & table.dup_group.isin(held_out)
    training = table[(table.usage == "Training") & ~twins]
    labels = training.groupby("dup_group").label.transform("nunique")
    clips, counts = load_dataset("fer2013", path)
    assert counts == {"twins_dropped": twins.sum(), "contradictory": (labels > 1).sum()}
    splits = Counter(clips.splits.tolist())
    assert splits["train"] + splits["calibrate"] == 28709 - 351
    assert splits["select"] == 3589
    assert 0.035 <= splits["calibrate"] / (28709 - 351) <= 0.045
    assert (np.ptp(clips.frames[clips.splits == "train"], axis=(1, 2)) > 0).all()
    assert count_classes(clips.take(clips.splits == "select"))["disgust"] == 56
    pixels = {s: {image.tobytes() for image in clips.frames[clips.splits == s]} for s in splits}
    assert not pixels["train"] & pixels["select"]
    assert not pixels["train"] & pixels["calibrate"]
    voted = clips.votes.sum(axis=1) > 0
    assert np.allclose(clips.votes[voted].sum(axis=1), 1)
    assert 0.99 < voted.mean() < 1
    assert 0.6 < (clips.votes.argmax(axis=1) == clips.labels)[voted].mean() < 0.67


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
