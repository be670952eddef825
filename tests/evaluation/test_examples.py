"""A checkpoint tried on labelled data: the right rows, matched by name, answered as analysis answers."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fer_batch.errors import ConfigError, InputError
from fer_batch.evaluation.evaluate import evaluate, load_examples, predict, split_name
from fer_batch.model.recognize import Recognizer
from fer_batch.schema import EMOTIONS
from fer_batch.training.datasets import Clips


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer()


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 48, 48), np.uint8)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def fer2013(path: Path, **usages: int) -> tuple[str, str]:
    """So many faces in each split, of the emotions in turn."""
    names = [usage for usage, count in usages.items() for _ in range(count)]
    columns = {
        "image_png": [png(image) for image in images(len(names))],
        "label_name": [EMOTIONS[i % 7] for i in range(len(names))],
        "usage": names,
    }
    pq.write_table(pa.table(columns), path)
    return "fer2013", str(path)


def folder(path: Path, *labels: str) -> tuple[str, str]:
    for number, (label, image) in enumerate(zip(labels, images(len(labels), 1), strict=True)):
        (path / label).mkdir(parents=True, exist_ok=True)
        (path / label / f"{number}.png").write_bytes(png(image))
    return "folder", str(path)


def clips(*lengths: int) -> Clips:
    count = len(lengths)
    return Clips(
        frames=images(sum(lengths)),
        starts=np.cumsum([0, *lengths]).astype(np.int64),
        labels=np.zeros(count, np.int64),
        splits=np.full(count, "train"),
        classes=EMOTIONS,
        votes=np.zeros((count, 7), np.float32),
        subjects=np.full(count, ""),
    )


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (None, None),
        ("Training", "train"),
        ("PUBLICTEST", "select"),
        ("privatetest", "test"),
        ("Train", "train"),
        ("calibrate", "calibrate"),
        ("select", "select"),
        ("TEST", "test"),
    ],
)
def test_a_split_has_two_names(given: str | None, name: str | None) -> None:
    assert split_name(given) == name


@pytest.mark.parametrize("given", ["", "dev", "test "])
def test_other_splits_are_refused_with_those_allowed(given: str) -> None:
    with pytest.raises(ConfigError, match=rf"--split is {given}; allowed is Training, .*PrivateTest.* test"):
        split_name(given)


def test_without_clips_there_are_no_answers(recognizer: Recognizer) -> None:
    assert predict(recognizer, clips()).shape == (0, 7)


def test_a_still_is_a_window_of_one(recognizer: Recognizer) -> None:
    stills = clips(1, 1, 1)
    each = np.arange(3)
    expected = recognizer.recognize(stills.frames, each, np.zeros(3), np.ones(3, bool))
    assert np.array_equal(predict(recognizer, stills), expected)


def test_a_clip_is_answered_at_its_last_frame_in_the_light_of_those_before(recognizer: Recognizer) -> None:
    some = clips(3, 1, 4)
    probs = predict(recognizer, some)
    assert probs.shape == (3, 7)
    for number, (first, end) in enumerate([(0, 3), (3, 4), (4, 8)]):
        frames = some.frames[first:end]
        track, times = np.zeros(len(frames), np.int64), np.arange(len(frames)) / 5.0
        alone = recognizer.recognize(frames, track, times, np.ones(len(frames), bool))
        assert np.array_equal(probs[number], alone[-1])
    still = recognizer.recognize(some.frames[2:3], np.zeros(1, np.int64), np.zeros(1), np.ones(1, bool))
    assert not np.array_equal(probs[0], still[0])


@pytest.mark.parametrize(
    ("usages", "given", "split", "count"),
    [
        ({"Training": 3, "PublicTest": 2, "PrivateTest": 4}, None, "test", 4),
        ({"Training": 3, "PublicTest": 2}, None, "select", 2),
        ({"Training": 3}, None, "train", 3),
        ({"Training": 3, "PublicTest": 2, "PrivateTest": 4}, "select", "select", 2),
        ({"Training": 40}, "train", "train", 40),
    ],
)
def test_the_split_that_is_evaluated(
    tmp_path: Path, usages: dict[str, int], given: str | None, split: str, count: int
) -> None:
    examples = load_examples([fer2013(tmp_path / "faces.parquet", **usages)], given, EMOTIONS)
    assert (examples.split, len(examples.labels)) == (split, count)
    assert [part["n"] for part in examples.data] == [count]


def test_identical_and_blank_faces_are_evaluated_as_they_are(tmp_path: Path) -> None:
    one = png(images(1)[0])
    columns = {"image_png": [one, one, png(np.zeros((48, 48), np.uint8))], "label_name": ["sad"] * 3}
    pq.write_table(
        pa.table(columns | {"usage": ["Training", "PublicTest", "Training"]}), tmp_path / "f.parquet"
    )
    examples = load_examples([("fer2013", str(tmp_path / "f.parquet"))], "train", EMOTIONS)
    assert len(examples.labels) == 2


def test_labels_are_matched_by_name_to_the_classes_of_the_model(tmp_path: Path) -> None:
    classes = ("surprise", "bored", "happy")
    examples = load_examples([folder(tmp_path / "own", "happy", "bored", "bored")], None, classes)
    assert sorted(examples.labels.tolist()) == [1, 1, 2]
    assert [len(part) for part in examples.parts] == [3]


def test_data_sets_are_evaluated_as_one(tmp_path: Path) -> None:
    data = [fer2013(tmp_path / "f.parquet", Training=4), folder(tmp_path / "own", "sad", "happy")]
    examples = load_examples(data, None, EMOTIONS)
    assert [part["n"] for part in examples.data] == [4, 2]
    assert sorted(examples.labels.tolist()) == [0, 1, 2, 3, 3, 5]


def lacks_the_split(folder_: Path) -> tuple[list[tuple[str, str]], str | None, str]:
    return [fer2013(folder_ / "f.parquet", Training=3, PublicTest=2)], "test", "select (2), train (3)"


def one_lacks_the_split(folder_: Path) -> tuple[list[tuple[str, str]], str | None, str]:
    data = [fer2013(folder_ / "f.parquet", PrivateTest=3), folder(folder_ / "own", "sad")]
    return data, None, f"folder={folder_ / 'own'} has nothing in the split test; it has train (1)"


def unknown_class(folder_: Path) -> tuple[list[tuple[str, str]], str | None, str]:
    return [folder(folder_ / "own", "happy", "bored")], None, "bored"


@pytest.mark.parametrize("case", [lacks_the_split, one_lacks_the_split, unknown_class])
def test_data_that_does_not_fit_is_named(tmp_path: Path, case: Any) -> None:
    data, split, said = case(tmp_path)
    with pytest.raises(InputError) as caught:
        load_examples(data, split, EMOTIONS)
    assert said in str(caught.value)


def test_the_packaged_checkpoint_is_evaluated_by_default(tmp_path: Path, recognizer: Recognizer) -> None:
    data = [fer2013(tmp_path / "f.parquet", PrivateTest=9)]
    loaded = []
    figures = evaluate(data, on_loaded=loaded.append)
    assert figures["model_id"] == recognizer.card.model_id
    assert (figures["split"], figures["n"], figures["flip"]) == ("test", 9, True)
    assert figures["temperature"] == recognizer.card.temperature
    assert figures["data"] == [{"name": "fer2013", "path": data[0][1], "n": 9, "left_out": {}}]
    assert len(loaded) == 1
    plain = evaluate(data, flip=False)
    assert plain["flip"] is False
    assert plain["nll"] != figures["nll"]


def test_the_packaged_model_on_public_test(shared: Path, tmp_path: Path) -> None:
    held_out = pq.read_table(shared / "data" / "fer2013.parquet", filters=[("usage", "==", "PublicTest")])
    pq.write_table(held_out, tmp_path / "public_test.parquet")
    figures = evaluate([("fer2013", str(tmp_path / "public_test.parquet"))])
    assert figures["n"] == 3589
    assert figures["accuracy"] >= 0.67
    assert figures["macro_f1"] >= 0.64
    assert figures["ece_debiased"] < 0.03
