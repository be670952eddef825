"""The faces of muxspace: framing, people held out as an unseen origin, and classes."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fer_batch.data.datasets import load_datasets
from fer_batch.data.muxspace import read_muxspace
from fer_batch.schema import EMOTIONS
from tests.datasets import fer_parquet, fer_rows, jpeg, load_dataset, muxspace_parquet, random_images


def make_rows(people: int) -> list[tuple[np.ndarray, str, str | None]]:
    """Make two images of each person."""
    images = random_images(2 * people, seed=5)
    return [(images[n], EMOTIONS[n % 7], f"Person_{n // 2}") for n in range(2 * people)]


def test_a_fifth_of_the_people_is_the_test_split_and_the_others_are_divided(tmp_path: Path) -> None:
    clips, _ = load_dataset("muxspace", muxspace_parquet(tmp_path, make_rows(200)))
    people = {split: set(clips.subjects[clips.splits == split]) for split in set(clips.splits.tolist())}
    assert people.keys() == {"train", "calibrate", "select", "test"}
    assert sum(map(len, people.values())) == 200
    assert 0.12 < len(people["test"]) / 200 < 0.28


def test_the_same_people_are_held_out_whatever_else_the_file_has(tmp_path: Path) -> None:
    rows = make_rows(60)
    held_out = []
    for some in (rows, rows[:80]):
        examples = read_muxspace("--data", muxspace_parquet(tmp_path, some), Counter())
        assert {example.split for example in examples} == {"", "test"}
        held_out.append({example.subject for example in examples if example.split})
    assert held_out[1] == held_out[0] & {subject for _, _, subject in rows[:80]}


def test_images_without_a_subject_are_held_out_one_by_one(tmp_path: Path) -> None:
    rows = [(image, label, None) for image, label, _ in make_rows(100)]
    examples = read_muxspace("--data", muxspace_parquet(tmp_path, rows), Counter())
    assert 20 < sum(example.split == "test" for example in examples) < 60
    assert {example.subject for example in examples} == {""}


def test_a_colour_image_that_is_not_square_keeps_its_proportions(tmp_path: Path) -> None:
    tall = np.zeros((96, 64, 3), np.uint8)
    tall[24:72, 16:48] = 255  # half as high and half as wide as the image
    square = np.zeros((96, 96), np.uint8)
    square[24:72, 24:72] = 255
    rows = [(tall, "happy", "A"), (np.swapaxes(tall, 0, 1), "sad", "B"), (square, "sad", "C")]
    frames = [e.images[0] for e in read_muxspace("--data", muxspace_parquet(tmp_path, rows), Counter())]
    heights, widths = ([int((frame > 128).any(axis=axis).sum()) for frame in frames] for axis in (1, 0))
    assert np.allclose(heights, [24, 16, 24], atol=1)
    assert np.allclose(widths, [16, 24, 24], atol=1)


def test_border_pixels_extend_an_image_that_is_not_square(tmp_path: Path) -> None:
    halves = np.full((96, 48), 40, np.uint8)
    halves[:, 24:] = 200
    frame = read_muxspace("--data", muxspace_parquet(tmp_path, [(halves, "sad", "A")]), Counter())[0].images
    assert np.allclose(frame[0, :, :20], 40, atol=6)
    assert np.allclose(frame[0, :, 28:], 200, atol=6)


@pytest.mark.parametrize("broken", [b"", jpeg(random_images(1)[0])[:300]], ids=["empty", "half"])
def test_unreadable_images_and_contempt_are_counted(
    tmp_path: Path, broken: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*make_rows(10), (random_images(1)[0], "contempt", "Person_1")]
    contents = iter([*[jpeg(image) for image, _, _ in rows[:-2]], broken, jpeg(rows[-1][0])])
    monkeypatch.setattr("tests.datasets.jpeg", lambda image: next(contents))
    clips, counts = load_dataset("muxspace", muxspace_parquet(tmp_path, rows), for_training=False)
    assert counts == {"unreadable": 1, "contempt_left_out": 1}
    assert len(clips) == 19
    assert clips.classes == EMOTIONS


def test_images_of_the_held_out_people_are_dropped_from_other_data_sets(tmp_path: Path) -> None:
    rows = make_rows(60)
    path = muxspace_parquet(tmp_path, rows)
    held_out = next(e for e in read_muxspace("--data", path, Counter()) if e.split == "test")
    copy = np.clip(held_out.images[0] * 0.8 + 20, 0, 255).astype(np.uint8)
    fer = fer_parquet(tmp_path, [*fer_rows(42), (copy, "happy", "Training")])
    _, counts = load_datasets([("fer2013", str(fer)), ("muxspace", str(path))])
    assert counts == {"twins_dropped": 1}


@pytest.mark.slow
def test_the_original_muxspace(shared: Path) -> None:
    clips, counts = load_dataset("muxspace", shared / "data" / "muxspace.parquet")
    assert counts["contempt_left_out"] == 9
    assert counts["twins_dropped"] <= 4
    assert len(clips) + counts["contempt_left_out"] + counts["twins_dropped"] == 6626
    assert clips.frames.shape == (len(clips), 48, 48)
    is_test = clips.splits == "test"
    assert 0.15 < is_test.mean() < 0.25
    assert not set(clips.subjects[is_test]) & set(clips.subjects[~is_test])
