"""Examples of an evaluation: the split, the left-out rows, and classes matched by name."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fer_batch.errors import ConfigError, InputError
from fer_batch.evaluation.examples import load_examples, parse_split
from fer_batch.schema import EMOTIONS
from tests.evaluation.faces import ck48, fer2013, folder, images, png


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
def test_splits_have_two_names(given: str | None, name: str | None) -> None:
    assert parse_split(given) == name


@pytest.mark.parametrize("given", ["", "dev", "test "])
def test_unknown_splits_are_refused(given: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"--split must be one of Training, .*PrivateTest.* test, got '{given}'"
    ):
        parse_split(given)


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
def test_default_split_is_the_first_that_exists(
    tmp_path: Path, usages: dict[str, int], given: str | None, split: str, count: int
) -> None:
    examples = load_examples([fer2013(tmp_path / "faces.parquet", **usages)], given, EMOTIONS)
    assert (examples.split, len(examples.labels)) == (split, count)
    assert [part.n for part in examples.data] == [count]


def test_identical_and_blank_faces_are_kept(tmp_path: Path) -> None:
    one = png(images(1)[0])
    columns = {"image_png": [one, one, png(np.zeros((48, 48), np.uint8))], "label_name": ["sad"] * 3}
    pq.write_table(
        pa.table(columns | {"usage": ["Training", "PublicTest", "Training"]}), tmp_path / "f.parquet"
    )
    examples = load_examples([("fer2013", str(tmp_path / "f.parquet"))], "train", EMOTIONS)
    assert len(examples.labels) == 2


def test_data_sets_are_joined(tmp_path: Path) -> None:
    data = [fer2013(tmp_path / "f.parquet", Training=4), folder(tmp_path / "own", "sad", "happy")]
    examples = load_examples(data, None, EMOTIONS)
    assert [part.n for part in examples.data] == [4, 2]
    assert sorted(examples.labels.tolist()) == [0, 1, 2, 3, 3, 5]


@pytest.mark.parametrize(
    ("usages", "labels", "split", "message"),
    [
        ({"Training": 3, "PublicTest": 2}, [], "test", r"test; it has select \(2\), train \(3\)"),
        ({"PrivateTest": 3}, ["sad"], None, r"own has no examples in the split test; it has train \(1\)"),
    ],
)
def test_missing_split_is_refused(
    tmp_path: Path, usages: dict[str, int], labels: list[str], split: str | None, message: str
) -> None:
    data = [fer2013(tmp_path / "f.parquet", **usages)]
    data += [folder(tmp_path / "own", *labels)] if labels else []
    with pytest.raises(InputError, match=message):
        load_examples(data, split, EMOTIONS)


def test_unknown_class_is_left_out_with_common_classes(tmp_path: Path) -> None:
    data = [folder(tmp_path / "own", "happy", "bored", "happiness", "anger", "bored")]
    with pytest.raises(InputError, match=r"not all checkpoints have: bored; allowed are .*--common-classes"):
        load_examples(data, None, EMOTIONS)
    examples = load_examples(data, None, ("sad", "Happiness", "angry"), common_classes=True)
    assert examples.classes == ("Happiness", "angry")
    assert sorted(examples.labels.tolist()) == [0, 0, 1]
    assert examples.left_out == {"bored": 2}
    assert [part.n for part in examples.data] == [3]
    assert [len(part) for part in examples.parts] == [3]
    labels = [["angry", "bored", "happy"][part] for part in examples.parts[0].labels]
    assert [examples.classes[i].lower()[:4] for i in examples.labels] == [label[:4] for label in labels]
    (indices,) = examples.indices
    assert len(set(indices.tolist())) == 3
    assert set(indices.tolist()) < set(range(5))


@pytest.mark.parametrize(
    ("classes", "common", "kept", "left_out", "reasons"),
    [
        (EMOTIONS, False, [0, 3], {}, {"contempt_left_out": 1}),
        (EMOTIONS, True, [0, 1], {"contempt": 1}, {}),
        (("contempt", "happy", "angry"), False, [0, 1, 2], {}, {}),
        (("contempt", "happy", "neutral"), True, [0, 1], {"angry": 1}, {}),
    ],
)
def test_contempt_is_kept_only_for_models_that_have_it(
    tmp_path: Path,
    classes: tuple[str, ...],
    common: bool,
    kept: list[int],
    left_out: dict[str, int],
    reasons: dict[str, int],
) -> None:
    data = [ck48(tmp_path / "ck", S1_001="anger", S2_001="contempt", S3_001="happy")]
    examples = load_examples(data, None, classes, common)
    assert sorted(examples.labels.tolist()) == kept
    assert examples.left_out == left_out
    assert [part.left_out for part in examples.data] == [reasons]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("sad", "fear"), "the data has bored, happy, and of these all checkpoints have none"),
        (("happy", "fear"), "have happy$"),
    ],
)
def test_fewer_than_two_common_classes_are_refused(
    tmp_path: Path, classes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_examples([folder(tmp_path / "own", "happy", "bored")], None, classes, common_classes=True)


def test_split_without_common_classes_is_refused(tmp_path: Path) -> None:
    data = [fer2013(tmp_path / "f.parquet", Training=6, PublicTest=1)]  # the seventh: surprise
    with pytest.raises(InputError, match=r"the split select has no examples of .*\(sad, angry\)"):
        load_examples(data, "select", ("sad", "angry"), common_classes=True)


def test_unknown_subjects_differ(tmp_path: Path) -> None:
    data = [
        ck48(tmp_path / "ck", S1_001="anger", S1_002="happy", S2_001="happy"),
        folder(tmp_path / "own", "happy", "sad"),
        folder(tmp_path / "more", "happy"),
    ]
    subjects = load_examples(data, None, EMOTIONS).subjects.tolist()
    assert subjects[0] == subjects[1]
    assert len(set(subjects)) == 5
