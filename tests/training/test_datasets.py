"""Data sets: every layout gives the same clips, splits don't leak, and what is wrong is named by its path."""

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
import torch
from PIL import Image

from fer_batch.errors import InputError
from fer_batch.schema import EMOTIONS
from fer_batch.training.datasets import (
    FER_ORDER,
    Clips,
    class_counts,
    concatenate,
    draw_sequences,
    load_dataset,
)

Row = tuple[np.ndarray, str, str]
"""An image, its label and its split as FER2013 names them."""
FOLDERS = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
SPLITS = {"Training": "train", "PublicTest": "select", "PrivateTest": "test"}


def random_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 48, 48), np.uint8)


def fer_rows(count: int, usages: Sequence[str] = tuple(FOLDERS), seed: int = 0) -> list[Row]:
    images = random_images(count, seed)
    return [(images[i], FER_ORDER[i % 7], usages[i % len(usages)]) for i in range(count)]


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
            writer.writerow([FER_ORDER.index(label), " ".join(map(str, image.ravel().tolist())), usage])
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


def contents(clips: Clips) -> Counter[tuple[bytes, str, str]]:
    """What a set of clips holds, in no order."""
    return Counter(
        (clips.frames[clips.starts[i] : clips.starts[i + 1]].tobytes(), EMOTIONS[label], str(clips.splits[i]))
        for i, label in enumerate(clips.labels)
    )


def expected(rows: Sequence[Row]) -> Counter[tuple[bytes, str, str]]:
    return Counter((image.tobytes(), label, SPLITS[usage]) for image, label, usage in rows)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_of_fer2013_gives_its_images_labels_and_splits(tmp_path: Path, layout: Layout) -> None:
    rows = fer_rows(42)
    clips, counts = load_dataset("fer2013", layout(tmp_path, rows))
    assert contents(clips) == expected(rows)
    assert clips.frames.shape == (42, 48, 48)
    assert clips.frames.dtype == np.uint8
    assert clips.labels.dtype == clips.starts.dtype == np.int64
    assert (np.diff(clips.starts) == 1).all()
    assert not any(counts.values())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_training_images_that_stand_in_another_split_are_dropped(tmp_path: Path, layout: Layout) -> None:
    rows = fer_rows(30)
    twins = [(rows[1][0], "sad", "Training"), (rows[2][0], rows[2][1], "Training")]
    within = [(rows[0][0], rows[0][1], "Training")]
    clips, counts = load_dataset("fer2013", layout(tmp_path, rows + twins + within))
    assert [rows[n][2] for n in (0, 1, 2)] == ["Training", "PublicTest", "PrivateTest"]
    assert contents(clips) == expected(rows + within)
    assert counts["twins_dropped"] == 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_blank_training_images_are_dropped(tmp_path: Path, layout: Layout) -> None:
    rows = fer_rows(30)
    black, grey = np.zeros((48, 48), np.uint8), np.full((48, 48), 128, np.uint8)
    held_out = [(grey, "happy", "PublicTest")]
    clips, counts = load_dataset("fer2013", layout(tmp_path, [*rows, (black, "sad", "Training"), *held_out]))
    assert contents(clips) == expected(rows + held_out)
    assert counts["blank_dropped"] == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_where_there_is_no_selection_split_a_tenth_of_training_becomes_one(
    tmp_path: Path, layout: Layout
) -> None:
    rows = fer_rows(300, ("Training", "Training", "PrivateTest"))
    rows += [(image, "fear", usage) for image, _, usage in rows if usage == "Training"]
    clips, _ = load_dataset("fer2013", layout(tmp_path, rows))
    held_out = contents(clips.take(clips.splits == "test"))
    assert held_out == expected([row for row in rows if row[2] == "PrivateTest"])
    assert len(clips) == len(rows)
    assert 0.04 <= np.mean(clips.splits[clips.splits != "test"] == "select") <= 0.16
    chosen = {image for image, _, split in contents(clips) if split == "select"}
    assert not chosen & {image for image, _, split in contents(clips) if split == "train"}


def test_every_layout_chooses_the_same_selection(tmp_path: Path) -> None:
    rows = fer_rows(120, ("Training",))
    chosen = [contents(load_dataset("fer2013", layout(tmp_path, rows))[0]) for layout in LAYOUTS]
    assert chosen[0] == chosen[1] == chosen[2]
    assert any(split == "select" for _, _, split in chosen[0])


@pytest.mark.parametrize(
    ("written", "meant"),
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
def test_other_names_of_a_class_mean_the_same(
    tmp_path: Path, layout: Layout, written: str, meant: str
) -> None:
    (image,) = random_images(1)
    clips, _ = load_dataset("fer2013", layout(tmp_path, [(image, written, "PublicTest")]))
    assert contents(clips) == expected([(image, meant, "PublicTest")])


def test_images_of_another_size_or_in_colour_become_grey_48_by_48(tmp_path: Path) -> None:
    folder = tmp_path / "faces" / "train" / "happy"
    folder.mkdir(parents=True)
    Image.new("RGB", (96, 80), (200, 30, 30)).save(folder / "red.jpg")
    Image.fromarray(random_images(1)[0]).resize((40, 40)).save(folder / "small.bmp")
    Image.fromarray(random_images(1)[0]).convert("RGBA").save(folder / "clear.PNG")
    (folder / "notes.txt").write_text("not an image")
    clips, _ = load_dataset("fer2013", tmp_path / "faces")
    assert clips.frames.shape == (2, 48, 48)


def not_an_image() -> bytes:
    return b"not an image"


def half_an_image() -> bytes:
    whole = png(random_images(1)[0])
    return whole[: len(whole) // 2]


def image_larger_than_pillow_reads() -> bytes:
    header = bytearray(png(random_images(1)[0]))
    header[16:24] = (100_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    return bytes(header)


@pytest.mark.parametrize("spoil", [bytes, not_an_image, half_an_image, image_larger_than_pillow_reads])
@pytest.mark.parametrize("name", ["fer2013", "ck48"])
@pytest.mark.parametrize("kind", ["folders", "parquet"])
def test_an_image_that_cannot_be_read_is_counted_and_left_out(
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
def test_a_layout_of_ck48_gives_each_sequence_as_a_clip_in_order(
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
    assert Counter((frames, label) for frames, label, _ in contents(clips)) == wanted
    assert (np.diff(clips.starts) == 3).all()
    assert counts["contempt_left_out"] == 3 * sum(label == "contempt" for _, label, _ in sequences) > 0


def test_both_layouts_of_ck48_are_the_same_clips(tmp_path: Path) -> None:
    sequences = ck_sequences(40)
    one, other = (load_dataset("ck48", layout(tmp_path, sequences))[0] for layout in (ck_parquet, ck_folders))
    for field in ("frames", "starts", "labels", "splits"):
        assert np.array_equal(getattr(one, field), getattr(other, field))


def test_no_subject_of_ck48_stands_in_both_splits(tmp_path: Path) -> None:
    sequences = ck_sequences(80)
    clips, _ = load_dataset("ck48", ck_parquet(tmp_path, sequences))
    subject = {np.stack(list(images.values())).tobytes(): name[:4] for name, _, images in sequences}
    people = {
        split: {subject[frames] for frames, _, s in contents(clips) if s == split}
        for split in ("train", "select")
    }
    assert set(clips.splits) == {"train", "select"}
    assert not people["train"] & people["select"]
    assert 2 <= len(people["select"]) <= 16


def empty_folder(folder: Path) -> Path:
    path = folder / "empty"
    path.mkdir()
    return path


def missing(folder: Path) -> Path:
    return folder / "nowhere.parquet"


def parquet_of_no_rows(folder: Path) -> Path:
    return fer_parquet(folder, [])


def csv_of_no_rows(folder: Path) -> Path:
    return fer_csv(folder, [])


def empty_file(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / f"data{suffix}"
        path.touch()
        return path

    return make


def text_file(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / f"data{suffix}"
        path.write_text("an essay\non faces\n")
        return path

    return make


def other_columns(folder: Path) -> Path:
    path = folder / "data.parquet"
    pq.write_table(pa.table({"image": [b""], "label": [1]}), path)
    return path


def unknown_class(folder: Path) -> Path:
    return fer_parquet(folder, [(random_images(1)[0], "bored", "Training")])


def unknown_class_folder(folder: Path) -> Path:
    return fer_folders(folder, [(random_images(1)[0], "bored", "Training")])


def class_of_none(folder: Path) -> Path:
    path = folder / "data.parquet"
    table = {"image_png": [png(random_images(1)[0])], "label_name": pa.nulls(1, pa.string())}
    pq.write_table(pa.table({**table, "usage": ["Training"]}), path)
    return path


def unknown_split(folder: Path) -> Path:
    return fer_parquet(folder, [(random_images(1)[0], "happy", "Exam")])


def csv_line(emotion: str, pixels: str, usage: str = "Training") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "data.csv"
        good = " ".join(["7"] * 2304)
        path.write_text(f"emotion,pixels,Usage\n3,{good},Training\n{emotion},{pixels},{usage}\n")
        return path

    return make


def ck_file(name: str, label: str = "anger") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "CK+48"
        (path / label).mkdir(parents=True)
        (path / label / name).write_bytes(png(random_images(1)[0]))
        return path

    return make


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("fer2013", empty_folder),
        ("ck48", empty_folder),
        ("fer2013", parquet_of_no_rows),
        ("fer2013", csv_of_no_rows),
        ("fer2013", empty_file(".parquet")),
        ("fer2013", empty_file(".csv")),
        ("ck48", empty_file(".parquet")),
        ("fer2013", missing),
        ("ck48", missing),
        ("fer2013", text_file(".parquet")),
        ("fer2013", text_file(".csv")),
        ("fer2013", text_file(".zip")),
        ("ck48", text_file(".csv")),
        ("fer2013", other_columns),
        ("ck48", other_columns),
        ("fer2013", unknown_class),
        ("fer2013", unknown_class_folder),
        ("fer2013", class_of_none),
        ("fer2013", unknown_split),
        ("fer2013", csv_line("3", "")),
        ("fer2013", csv_line("3", "1 2 3")),
        ("fer2013", csv_line("3", " ".join(["1"] * 2305))),
        ("fer2013", csv_line("3", " ".join(["x"] * 2304))),
        ("fer2013", csv_line("3", " ".join(["300"] * 2304))),
        ("fer2013", csv_line("3", " ".join(["-1"] * 2304))),
        ("fer2013", csv_line("7", " ".join(["1"] * 2304))),
        ("fer2013", csv_line("-1", " ".join(["1"] * 2304))),
        ("fer2013", csv_line("", " ".join(["1"] * 2304))),
        ("fer2013", csv_line("happy", " ".join(["1"] * 2304))),
        ("fer2013", csv_line("3", " ".join(["1"] * 2304), "Exam")),
        ("ck48", ck_file("face.png")),
        ("ck48", ck_file("S010_004.png")),
        ("ck48", ck_file("S010_004_00000017.png", "boredom")),
    ],
    ids=[
        "folder, empty", "ck folder, empty", "parquet of no rows", "csv of no rows", "parquet, empty",
        "csv, empty", "ck parquet, empty", "missing", "ck missing", "parquet of text", "csv of text",
        "zip", "ck csv", "columns", "ck columns", "class", "class folder", "class of none", "split",
        "no pixels", "few pixels", "many pixels", "pixels of text", "pixels of 300", "pixels below 0",
        "emotion 7", "emotion -1", "no emotion", "emotion of text", "csv split", "ck name", "ck short name",
        "ck class",
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_data_set_is_named_by_its_path(
    tmp_path: Path, name: str, make: Callable[[Path], Path]
) -> None:
    path = make(tmp_path)
    with pytest.raises(InputError) as caught:
        load_dataset(name, path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["", "FER2013", "affectnet"])
def test_an_unknown_data_set_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"no data set '{name}'; allowed are fer2013, ck48"):
        load_dataset(name, tmp_path)


def tiny_clips() -> Clips:
    """Three clips of 1, 3 and 2 frames, each frame of one grey value."""
    values = np.array([0, 10, 11, 12, 20, 21], np.uint8)
    return Clips(
        frames=np.broadcast_to(values[:, None, None], (6, 48, 48)).copy(),
        starts=np.array([0, 1, 4, 6]),
        labels=np.array([3, 0, 5]),
        splits=np.array(["train", "select", "train"]),
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
def test_clips_are_taken_whole(
    keep: np.ndarray, values: list[int], starts: list[int], labels: list[int]
) -> None:
    taken = tiny_clips().take(keep)
    assert taken.frames.shape == (len(values), 48, 48)
    assert taken.frames[:, 0, 0].tolist() == values
    assert taken.starts.tolist() == starts
    assert taken.labels.tolist() == labels
    assert len(taken) == len(taken.splits) == len(labels)


def test_data_sets_are_joined_clip_by_clip() -> None:
    clips = tiny_clips()
    nothing = clips.take(np.zeros(3, bool))
    assert contents(concatenate([nothing])) == Counter()
    joined = concatenate([clips, nothing, clips.take(np.array([2]))])
    assert joined.starts.tolist() == [0, 1, 4, 6, 8]
    assert contents(joined) == contents(clips) + contents(clips.take(np.array([2])))


def test_clips_are_counted_by_class() -> None:
    clips = tiny_clips()
    assert class_counts(clips.take(np.zeros(3, bool))) == {}
    assert class_counts(concatenate([clips, clips.take(np.array([1]))])) == {"angry": 2, "happy": 1, "sad": 1}


def test_drawn_sequences_carry_the_label_of_each_frame_in_order() -> None:
    clips = tiny_clips()
    label_of = {0: 3, 10: 0, 11: 0, 12: 0, 20: 5, 21: 5}
    generator = torch.Generator().manual_seed(0)
    lengths, changes, order = Counter(), 0, np.array([1, 0, 2, 1])
    for _ in range(60):
        frames, labels = draw_sequences(clips, order, 9, generator)
        steps = frames.shape[1]
        lengths[steps] += 1
        assert frames.shape == (4, steps, 48, 48)
        assert labels.shape == (4, steps)
        values = frames[:, :, 0, 0]
        assert np.vectorize(label_of.get)(values).tolist() == labels.tolist()
        assert (labels[:, 0] == clips.labels[order]).all()
        for row, named in zip(values.astype(int), labels, strict=True):
            turns = np.flatnonzero(np.diff(named))
            changes += len(turns)
            assert len(turns) <= 1
            assert all((np.diff(part) >= 0).all() for part in np.split(row, turns + 1))
    assert set(lengths) == set(range(1, 10))
    assert lengths.most_common(1)[0][0] == 9
    assert changes > 20


def test_the_same_seed_draws_the_same_sequences() -> None:
    drawn = [
        draw_sequences(tiny_clips(), np.array([0, 1, 2]), 9, torch.Generator().manual_seed(seed))[0]
        for seed in (4, 4, 5)
    ]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_fer2013_as_people_have_it(shared: Path) -> None:
    path = shared / "data" / "fer2013.parquet"
    table = pq.read_table(path, columns=["usage", "dup_group"]).to_pandas()
    held_out = set(table.dup_group[table.usage == "PublicTest"])
    twins = (table.usage == "Training") & table.dup_group.isin(held_out)
    clips, counts = load_dataset("fer2013", path)
    assert counts == {"twins_dropped": twins.sum(), "blank_dropped": 0}
    assert Counter(clips.splits.tolist()) == {"train": 28709 - 351, "select": 3589}
    assert (np.ptp(clips.frames[clips.splits == "train"], axis=(1, 2)) > 0).all()
    assert class_counts(clips.take(clips.splits == "select"))["disgust"] == 56
    training = {image for image, _, split in contents(clips) if split == "train"}
    assert not training & {image for image, _, split in contents(clips) if split == "select"}


def test_ck48_as_people_have_it(shared: Path) -> None:
    path = shared / "data" / "ck48.parquet"
    clips, counts = load_dataset("ck48", path)
    assert counts == {"contempt_left_out": 54}
    assert len(clips) == 327 - 18
    assert (np.diff(clips.starts) == 3).all()
    assert class_counts(clips) == {
        "angry": 45, "disgust": 59, "fear": 25, "happy": 69, "sad": 28, "surprise": 83,
    }  # fmt: skip
    assert Counter(clips.splits.tolist()).keys() == {"train", "select"}
