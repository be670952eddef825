"""FER2013: all layouts give the same clips, and votes become shares."""

import csv
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fer_batch.data.clips import count_classes
from fer_batch.data.fer2013 import VOTE_COLUMNS
from fer_batch.errors import InputError
from fer_batch.schema import EMOTIONS
from tests.datasets import (
    LAYOUTS,
    Layout,
    Row,
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
    random_images,
)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_has_images_labels_and_splits(tmp_path: Path, layout: Layout) -> None:
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


def test_training_is_divided_by_content_and_equally_in_all_layouts(tmp_path: Path) -> None:
    rows = fer_rows(600, ("Training", "Training", "PrivateTest"))
    rows += [(image, "fear", usage) for image, _, usage in rows if usage == "Training"]
    loaded = [load_dataset("fer2013", layout(tmp_path, rows))[0] for layout in LAYOUTS]
    contents = [count_contents(clips) for clips in loaded]
    assert contents[0] == contents[1] == contents[2]
    clips = loaded[0]
    assert len(clips) == len(rows)
    held_out = count_contents(clips.take(clips.splits == "test"))
    assert held_out == count_rows([row for row in rows if row[2] == "PrivateTest"])
    frames = get_frames_by_split(clips)
    assert frames.keys() == {"train", "calibrate", "select", "test"}
    assert sum(map(len, frames.values())) == 600
    assert 20 <= len(frames["select"]) <= 60
    assert 6 <= len(frames["calibrate"]) <= 24


def test_an_image_with_two_labels_is_kept_and_counted(tmp_path: Path) -> None:
    rows = fer_rows(21)
    assert [rows[n][1:] for n in (0, 3)] == [("angry", "Training"), ("happy", "Training")]
    more = [(rows[0][0], "sad", "Training"), (rows[3][0], "happy", "Training")]
    clips, counts = load_dataset("fer2013", fer_parquet(tmp_path, rows + more))
    assert count_contents(clips) == count_rows(rows + more)
    assert counts == {"contradictory": 2}


@pytest.mark.parametrize("layout", [fer_parquet, fer_folders])
def test_synonyms_of_class_names_are_read(tmp_path: Path, layout: Layout) -> None:
    given = ("anger", "Disgusted", "fearful", "HAPPINESS", "Neutral", "sadness", "surprised")
    images = random_images(len(given))
    rows, expected = (
        [(image, label, "PublicTest") for image, label in zip(images, labels, strict=True)]
        for labels in (given, EMOTIONS)
    )
    clips, _ = load_dataset("fer2013", layout(tmp_path, rows), for_training=False)
    assert count_contents(clips) == count_rows(expected)


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


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", ["fer.csv", "fer.parquet"])
def test_pipe_is_no_data_set(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=r"^--data fer2013=.*it is not a regular file"):
        load_dataset("fer2013", tmp_path / name)


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
    happy = (0, 10, *[0] * 8)
    path = layout(tmp_path, fer_rows(6), [votes] + [happy] * 5)
    clips, _ = load_dataset("fer2013", path, for_training=False)
    assert clips.votes.dtype == np.float32
    assert clips.votes[0].tolist() == pytest.approx([shares.get(name, 0.0) for name in EMOTIONS])
    assert (clips.votes[1:, EMOTIONS.index("happy")] == 1).all()


def test_votes_for_contempt_count_if_it_is_a_class(tmp_path: Path) -> None:
    path = with_votes_csv(tmp_path, fer_rows(2), [(0, 0, 0, 0, 0, 3, 0, 1, 6, 0), NO_VOTE])
    clips, _ = load_dataset("fer2013", path, classes=(*EMOTIONS, "contempt"), for_training=False)
    assert clips.votes[0].tolist() == [0, 0.75, 0, 0, 0, 0, 0, 0.25]


def test_rows_without_votes_are_zero(tmp_path: Path) -> None:
    for name, path in (
        ("fer2013", fer_csv(tmp_path, fer_rows(14))),
        ("ck48", ck_parquet(tmp_path, ck_sequences(8))),
    ):
        clips, _ = load_dataset(name, path)
        assert clips.votes.shape == (len(clips), 7)
        assert not clips.votes.any()


def test_votes_of_other_rows_are_refused(tmp_path: Path) -> None:
    rows = fer_rows(6)
    for voted in (rows[:5], rows[::-1]):
        with_votes_csv(tmp_path, voted, [NO_VOTE] * len(voted))
        message = rf"Usage column of .*new.csv differs \({len(voted)} rows, expected 6\)"
        with pytest.raises(InputError, match=message):
            load_dataset("fer2013", fer_csv(tmp_path, rows))


@pytest.mark.slow
def test_the_original_fer2013(shared: Path) -> None:
    path = shared / "data" / "fer2013.parquet"
    table = pq.read_table(path, columns=["usage", "dup_group"]).to_pandas()
    held_out = set(table.dup_group[table.usage == "PublicTest"])
    identical = int(((table.usage == "Training") & table.dup_group.isin(held_out)).sum())
    clips, counts = load_dataset("fer2013", path)
    assert counts.keys() == {"twins_dropped", "blank_dropped", "contradictory"}
    assert 300 < counts["twins_dropped"] - identical < 420  # copies that are compressed or lit differently
    dropped = counts["twins_dropped"] + counts["blank_dropped"]
    splits = Counter(clips.splits.tolist())
    assert splits["train"] + splits["calibrate"] == 28709 - dropped
    assert splits["select"] == 3589
    assert 0.035 <= splits["calibrate"] / (splits["train"] + splits["calibrate"]) <= 0.045
    assert (np.ptp(clips.frames[clips.splits == "train"], axis=(1, 2)) > 0).all()
    assert count_classes(clips.take(clips.splits == "select"))["disgust"] == 56
    frames = get_frames_by_split(clips)
    assert not frames["train"] & (frames["select"] | frames["calibrate"])
    voted = clips.votes.sum(axis=1) > 0
    assert np.allclose(clips.votes[voted].sum(axis=1), 1)
    assert 0.99 < voted.mean() < 1
    assert 0.6 < (clips.votes.argmax(axis=1) == clips.labels)[voted].mean() < 0.67
